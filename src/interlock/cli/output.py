"""What commands print: one JSON value for machines, or short text and tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from interlock.errors import ConfigError


def put_json(value: object) -> None:
    """One JSON value on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def put(*lines: str) -> None:
    """Lines on stdout."""
    for line in lines:
        sys.stdout.write(line + "\n")


def table(rows: Iterable[Sequence[object]], head: Sequence[str]) -> None:
    """Columns as wide as they must be, without colours or frames: it can be read, and cut with awk."""
    texts = [tuple(_text(cell) for cell in row) for row in rows]
    widths = [max(len(line[i]) for line in (tuple(head), *texts)) for i in range(len(head))]
    for line in (tuple(head), *texts):
        put("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _text(cell: Any) -> str:
    if cell is None or cell == "":
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, list | tuple):
        return ",".join(str(entry) for entry in cell) or "-"
    # a cell is one line, and does not move the terminal's cursor
    return "".join(c if c.isprintable() else "?" for c in str(cell))


def write_plot(file: str, text: str) -> None:
    """Write what is drawn. Raises ConfigError."""
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"{file}: {e.strerror}", param="plot") from None


def check_plot(file: str) -> None:
    """Whether something can be written there, before it takes minutes to make. Raises ConfigError."""
    if file and (Path(file).is_dir() or not Path(file).parent.is_dir()):
        raise ConfigError(f"{file}: no file can be made there", param="plot")
