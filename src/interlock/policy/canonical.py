"""Policies in one way of writing, so that a difference that is shown is one of meaning and not of spaces."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from typing import NamedTuple

import cedarpy

from interlock.policy.text import TextError, statements


class Shown(NamedTuple):
    """A policy as it is compared: its id, text, the sentence that says what it means, and whether it only reports."""

    id: str
    cedar: str
    words: str = ""
    report_only: bool = False


@functools.lru_cache(maxsize=4096)
def canonical(cedar: str) -> str:
    """The text as Cedar's own formatter writes it, comments kept; as it was when it is not a policy."""
    try:
        statements(cedar)  # bounds what the formatter is given
        return cedarpy.format_policies(cedar)
    except (TextError, ValueError, UnicodeEncodeError):
        return cedar


def sheet(policies: Iterable[Shown]) -> str:
    """All of a set as one text, by id."""
    parts = []
    for policy in sorted(policies):
        head = f"// policy {policy.id}" + (" (reports only)" if policy.report_only else "")
        head += f"\n// {' '.join(policy.words.split())}" if policy.words else ""
        parts.append(f"{head}\n{canonical(policy.cedar).strip()}\n")
    return "\n".join(parts)


def difference(before: Iterable[Shown], after: Iterable[Shown], names: tuple[str, str]) -> list[str]:
    """The lines of a unified diff, none when they say the same."""
    old, new = (sheet(each).splitlines() for each in (before, after))
    return list(difflib.unified_diff(old, new, *names, lineterm=""))
