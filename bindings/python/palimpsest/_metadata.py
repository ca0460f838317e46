"""Metadata and filters from plain Python values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

from ._ffi import Filter, Value

#: What metadata may be.
Plain = Union[bool, int, float, str]


def value(plain: Plain) -> Value:
    # A bool is an int in Python: it is asked for first.
    if isinstance(plain, bool):
        return Value.BOOL(plain)
    if isinstance(plain, int):
        return Value.INTEGER(plain)
    if isinstance(plain, float):
        return Value.NUMBER(plain)
    if isinstance(plain, str):
        return Value.TEXT(plain)
    raise TypeError(f"metadata of {type(plain).__name__} is not kept: bool, int, float and str are")


def values(metadata: Mapping[str, Plain]) -> dict[str, Value]:
    return {name: value(plain) for name, plain in metadata.items()}


def where(**fields: Plain) -> Filter:
    """Every field has the value given: `where(language="en", year=2024)`."""
    filters: list[Filter] = [Filter.EQUALS(name, value(plain)) for name, plain in fields.items()]
    return filters[0] if len(filters) == 1 else Filter.ALL_OF(filters)


def between(field: str, start: Plain | None = None, end: Plain | None = None) -> Filter:
    """The field has a value between the two, bounds included; without one it is open on that side."""
    bound = [None if plain is None else value(plain) for plain in (start, end)]
    return Filter.BETWEEN(field, bound[0], bound[1])


def all_of(*filters: Filter) -> Filter:
    """All hold."""
    return Filter.ALL_OF(list(filters))


def any_of(*filters: Filter) -> Filter:
    """One holds at least."""
    return Filter.ANY_OF(list(filters))


def is_not(filter: Filter) -> Filter:
    """It does not hold."""
    return Filter.NOT(filter)
