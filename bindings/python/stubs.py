"""Writes the types of the generated module, which type checkers cannot see in it: python stubs.py _ffi.py >_ffi.pyi

UniFFI makes the cases of an enum and of an error subclasses of it at run time; here they are subclasses on paper.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def signature(function: Function, indent: str, returns: str | None = None) -> str:
    """Its head, with `...` in place of defaults and body."""
    arguments = function.args
    arguments.defaults = [ast.Constant(...) for _ in arguments.defaults]
    arguments.kw_defaults = [default and ast.Constant(...) for default in arguments.kw_defaults]
    prefix = "async def" if isinstance(function, ast.AsyncFunctionDef) else "def"
    result = returns or (ast.unparse(function.returns) if function.returns else "None")
    return f"{indent}{prefix} {function.name}({ast.unparse(arguments)}) -> {result}: ..."


def fields(of: ast.ClassDef, indent: str) -> Iterator[str]:
    """What `__init__` takes, as attributes, and `__init__` itself."""
    for made in of.body:
        if isinstance(made, ast.FunctionDef) and made.name == "__init__":
            for argument in [*made.args.args[1:], *made.args.kwonlyargs]:
                assert argument.annotation is not None
                if ast.unparse(argument.annotation) == argument.arg:
                    # `bytes: bytes`, where the field would hide the type.
                    argument.annotation = ast.Name(f"builtins.{argument.arg}")
                yield f"{indent}{argument.arg}: {ast.unparse(argument.annotation)}"
            yield signature(made, indent)


def cases(of: ast.ClassDef, base: str, has_fields: bool) -> Iterator[str]:
    """An enum whose cases are classes: a subclass a case, and its name within the enum."""
    inner = [case for case in of.body if isinstance(case, ast.ClassDef)]
    yield f"class {of.name}{base}:"
    yield from (f"    {case.name}: typing.TypeAlias = _{of.name}_{case.name}" for case in inner)
    for case in inner:
        yield f"class _{of.name}_{case.name}({of.name}):"
        yield from (fields(case, "    ") if has_fields else ["    ..."])


def stub(of: ast.ClassDef) -> Iterator[str]:
    bases = [ast.unparse(base) for base in of.bases]
    methods = [f for f in of.body if isinstance(f, Function) and not f.name.startswith("_")]
    if bases == ["enum.Enum"]:
        yield f"class {of.name}(enum.Enum):"
        yield from (f"    {ast.unparse(member)}" for member in of.body if isinstance(member, ast.Assign))
    elif any(isinstance(case, ast.ClassDef) for case in of.body):
        error = any("Error" in ast.unparse(base) for case in of.body if isinstance(case, ast.ClassDef) for base in case.bases)
        yield from cases(of, "(Exception)" if error else "", not error)
    elif bases == [f"{of.name}Protocol"]:
        yield f"class {of.name}:"
        yield from (signature(method, "    ") for method in methods)
    else:
        yield f"class {of.name}:"
        yield from fields(of, "    ")


def main(generated: Path) -> None:
    module = ast.parse(generated.read_text())
    exported = next(
        ast.literal_eval(said.value) for said in module.body if isinstance(said, ast.Assign) and ast.unparse(said.targets[0]) == "__all__"
    )
    # The last of a name counts, as at run time.
    named = {said.name: said for said in module.body if isinstance(said, ast.ClassDef | Function)}
    print("import builtins\nimport enum\nimport typing\n\nclass InternalError(Exception): ...")
    for name in exported:
        match named[name]:
            case ast.ClassDef() as found if not name.endswith("Protocol") and name != "InternalError":
                print("\n".join(stub(found)))
            case ast.FunctionDef() | ast.AsyncFunctionDef() as found:
                print(signature(found, ""))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
