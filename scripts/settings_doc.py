"""Write the tables of docs/settings.md from the metadata of `interlock.settings`.

    python scripts/settings_doc.py            # rewrite the page
    python scripts/settings_doc.py --check    # change nothing; exit status 1 when the page is out of date

What stands outside the two markers is kept as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from interlock.settings import ENV_PREFIX, SECRET_SETTINGS, Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
BEGIN = "<!-- tables: begin (written by scripts/settings_doc.py) -->"
END = "<!-- tables: end -->"
UNITS = {"ms": "milliseconds", "s": "seconds", "bytes": "bytes", "tokens": "tokens"}
"""Word in a setting's name -> its unit. Everything else is a plain number or text."""


def unit(name: str) -> str:
    """The unit of a setting, which its name carries: `stream_sync_ms` is in milliseconds."""
    return next((UNITS[word] for word in name.split("_") if word in UNITS), "")


def shown(value: object) -> str:
    """A default as it can be written in the environment or in the file."""
    if isinstance(value, int):
        return f"`{value:_}`"
    return f"`{value}`" if value else "empty"


def row(field: dataclasses.Field[object]) -> str:
    """One line of a table."""
    minimum = field.metadata["minimum"]
    doc = field.metadata["doc"].replace("|", "\\|")
    if field.name in SECRET_SETTINGS:
        doc += " Never printed."
    least = "" if minimum is None else f"{minimum:_}"
    name = field.name
    measure = unit(name) if isinstance(field.default, int) else "text"
    return f"| `{name}` | `{ENV_PREFIX}{name.upper()}` | {measure} | {shown(field.default)} | {least} | {doc} |"


def tables() -> str:
    """A heading and a table for each group, in the order of the code."""
    groups: dict[str, list[str]] = {}
    for field in dataclasses.fields(Settings):
        groups.setdefault(field.metadata["group"], []).append(row(field))
    head = "| setting | environment | unit | default | least | |\n|---|---|---|---|---|---|\n"
    return "\n".join(
        f"## {name[0].upper()}{name[1:]}\n\n{head}" + "\n".join(rows) + "\n" for name, rows in groups.items()
    )


def page(before: str) -> str:
    """The page with fresh tables between its markers. Raises ValueError when a marker is missing."""
    top, begin, rest = before.partition(BEGIN)
    _, end, bottom = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} lacks a marker: {BEGIN} ... {END}")
    return f"{top}{BEGIN}\n\n{tables()}\n{END}{bottom}"


def main() -> int:
    """Entry point. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    given = parser.parse_args()
    before = PAGE.read_text(encoding="utf-8")
    after = page(before)
    if before == after:
        return 0
    if given.check:
        print("docs/settings.md is out of date; run scripts/settings_doc.py", file=sys.stderr)
        return 1
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
