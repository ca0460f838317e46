#!/usr/bin/env python3
"""Makes the country files of this folder from a copy of The World Factbook.

    python3 make.py FACTBOOK.jsonl[.zst] [--out DIR]

FACTBOOK holds one {"title", "text"} a line; with .zst the `zstandard` package is needed.
In a text, a heading is a line alone between blank lines, a fact is a line "name: value",
and the facts of a group follow its heading. No fact is added and none is left out; what
changes is the form: a group's plain facts come before its subgroups, a repeated name
("urban: urban: 86%") is said once, and a long text gets a heading and paragraphs.
"""

import argparse
import html
import io
import json
import pathlib
import re

MARKDOWN = """Kenya Tanzania Uganda Ethiopia Egypt Ghana Morocco South_Africa Botswana Madagascar New_Zealand
Fiji Japan Mongolia Vietnam Nepal Kazakhstan Iceland Norway Finland Switzerland Portugal Ireland Peru Bolivia
Brazil Costa_Rica""".split()
HTML = "Greece Chile Jamaica Bhutan Jordan Australia".split()
TEXT = "Estonia Uruguay Oman Antarctica Canada".split()

SECTIONS = """Introduction|Geography|People and Society|Environment|Government|Economy|Energy|Communications
Transportation|Military and Security|Space|Terrorism|Transnational Issues""".replace("\n", "|").split("|")

# Facts that stand for themselves: in the source nothing but their name ends the group before them.
ALONE = set(
    """Background|Location|Geographic coordinates|Map references|Area - comparative|Coastline|Climate|Terrain
Natural resources|Irrigated land|Major rivers (by length in km)|Major aquifers|Population distribution
Natural hazards|Geography - note|Ethnic groups|Religions|Population growth rate|Birth rate|Death rate
Net migration rate|Major urban areas - population|Maternal mortality ratio|Total fertility rate
Gross reproduction rate|Physician density|Hospital bed density|Obesity - adult prevalence rate
Children under the age of 5 years underweight|Currently married women (ages 15-49)|Environmental issues
Particulate matter emissions|Total renewable water resources|Government type|Administrative divisions
Legal system|International law organization participation|Suffrage|Political parties
International organization participation|Independence|Flag|National symbol(s)|National color(s)
National coat of arms|Economic overview|Industries|Broadcast media|Internet country code
Civil aircraft registration country code prefix|Airports|Heliports
Military and security service personnel strengths|Military equipment inventories and acquisitions
Military service age and obligation|Military deployments|Military - note|Space launch site(s)
Space program overview|Key space-program milestones|Dependency status|Demographic profile
Mother's mean age at first birth|Transportation - note|National holiday|Maritime claims|Terrorist group(s)|Citizenship""".replace(
        "\n", "|"
    ).split("|")
)

# A bare name that its group's heading completes.
FULL_NAME = {
    ("Capital", "name"): "Capital",
    ("Area", "total"): "total area",
    ("Population", "total"): "total population",
}
LONG = 320  # characters: beyond this a fact is a text with a heading of its own


def fact(line, group):
    """("name", "value") of one line."""
    parts = [p.strip() for p in re.split(r" ?: ", re.sub(r"\s+", " ", line).strip())]
    if len(parts) == 1:
        return "", parts[0].rstrip(":")
    names, value = parts[:1], parts[1:]
    while len(value) > 1 and (value[0] == names[-1] or value[0] == value[1]):
        if value[0] != names[-1]:
            names.append(value[0])
        value = value[1:]
    name = ", ".join(names)
    return FULL_NAME.get((group, name), name), ": ".join(value)


def parse(text):
    """[(section, [(name, value)], [(group, [(name, value)])])]"""
    out = []
    group = None
    for block in re.split(r"\n\s*\n", html.unescape(text).strip()):
        lines = [line for line in block.split("\n") if line.strip()]
        if len(lines) == 1 and lines[0] in SECTIONS:
            out.append((lines[0], [], []))
            group = None
        elif len(lines) == 1 and not re.search(r": ", lines[0]):
            group = (lines[0].strip().rstrip(":"), [])
            out[-1][2].append(group)
        else:
            for line in lines:
                name = line.split(":")[0].strip()
                if group and name in ALONE and name != group[0]:
                    group = None
                if group:
                    group[1].append(fact(line, group[0]))
                else:
                    name, value = fact(line, None)
                    if len(value) > LONG:
                        out[-1][2].append((name, [("", value)]))
                    else:
                        out[-1][1].append((name, value))
    sections = []
    for section, facts, groups in out:
        kept = []
        for group, inner in groups:
            if len(inner) == 1 and inner[0][0] == group:  # a heading that only repeats its one fact
                if len(inner[0][1]) > LONG:
                    kept.append((group, [("", inner[0][1])]))
                else:
                    facts.append(inner[0])
            elif inner:
                kept.append((group, inner))
        if facts or kept:
            sections.append((section, facts, kept))
    return sections


def paragraphs(text):
    """Cuts a long text after a sentence, about every 500 characters."""
    out = [""]
    for sentence in re.split(r"(?<=[a-z0-9\)]{2}[.])\s+(?=[A-Z])", text):
        if len(out[-1]) > 450:
            out.append("")
        out[-1] = (out[-1] + " " + sentence).strip()
    return out


def as_list(facts):
    return all(name for name, _ in facts)


def markdown(title, sections):
    out = [f"# {title}"]
    for section, facts, groups in sections:
        out.append(f"## {section}")
        if facts:
            out.append("\n".join(f"- {n}: {v}" for n, v in facts))
        for group, facts in groups:
            out.append(f"### {group}")
            if as_list(facts):
                out.append("\n".join(f"- {n}: {v}" for n, v in facts))
            else:
                out += [p for n, v in facts for p in paragraphs(f"{n}: {v}" if n else v)]
    return "\n\n".join(out) + "\n"


def plain(title, sections):
    out = [f"{title.upper()}\n{'=' * len(title)}"]
    for section, facts, groups in sections:
        out.append(f"{section}\n{'-' * len(section)}")
        if facts:
            out.append("\n".join(f"{n}: {v}" for n, v in facts))
        for group, facts in groups:
            out.append(group)
            if as_list(facts):
                out.append("\n".join(f"    {n}: {v}" for n, v in facts))
            else:
                out += [p for n, v in facts for p in paragraphs(f"{n}: {v}" if n else v)]
    return "\n\n".join(out) + "\n"


def page(title, sections):
    e = html.escape
    out = ["<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">']
    out += [f"<title>{e(title)}</title>", "</head>", "<body>", f"<h1>{e(title)}</h1>"]
    for section, facts, groups in sections:
        out.append(f"<h2>{e(section)}</h2>")
        out += [f"<p><b>{e(n)}:</b> {e(v)}</p>" for n, v in facts]
        for group, facts in groups:
            out.append(f"<h3>{e(group)}</h3>")
            if as_list(facts):
                out.append("<table>")
                out += [f"<tr><th>{e(n)}</th><td>{e(v)}</td></tr>" for n, v in facts]
                out.append("</table>")
            else:
                out += [f"<p>{e(p)}</p>" for n, v in facts for p in paragraphs(f"{n}: {v}" if n else v)]
    return "\n".join(out + ["</body>", "</html>"]) + "\n"


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("factbook", type=pathlib.Path)
    args.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    args = args.parse_args()

    raw = open(args.factbook, "rb")
    if args.factbook.suffix == ".zst":
        import zstandard

        raw = zstandard.ZstdDecompressor().stream_reader(raw)
    countries = {}
    for line in io.TextIOWrapper(raw, encoding="utf-8"):
        row = json.loads(line)
        countries.setdefault(html.unescape(row["title"]), row["text"])

    for names, suffix, form in ((MARKDOWN, "md", markdown), (HTML, "html", page), (TEXT, "txt", plain)):
        for name in names:
            title = name.replace("_", " ")
            path = args.out / f"{title.lower().replace(' ', '-')}.{suffix}"
            path.write_text(form(title, parse(countries[title])), encoding="utf-8")


if __name__ == "__main__":
    main()
