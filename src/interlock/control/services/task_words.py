"""How the tasks that the router tells apart look, in plain words: no text is kept, so that no word can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from interlock.types.learned import SIGNAL_ONE

SIGNALS: tuple[tuple[str, str, str], ...] = (
    ("characters", "long prompts", "short prompts"),
    ("words", "long prompts", "short prompts"),
    ("share of digits", "many digits", "few digits"),
    ("digits", "many digits", "few digits"),
    ("numbers", "many numbers", "few numbers"),
    ("lines", "many lines", "few lines"),
    ("share of letters", "mostly letters", "few letters"),
    ("share of capitals", "many capitals", "few capitals"),
    ("characters per word", "long words", "short words"),
    ("characters per line", "long lines", "short lines"),
    ("length of the last line", "a long last line", "a short last line"),
    ("question marks", "questions", "no questions"),
    ("dollar signs", "formulas or amounts", "no formulas"),
    ("backslashes", "formulas or paths", "no formulas"),
    ("share of equals signs", "equations or assignments", "no equations"),
    ("brackets", "many brackets", "few brackets"),
    ("gaps to fill", "gaps to fill", "no gaps to fill"),
    ("options", "lists of options", "no lists of options"),
    ("share of commas", "many commas", "few commas"),
    ("code", "much code", "no code"),
    ("share outside ASCII", "other scripts than Latin", "plain Latin script"),
    ("different words", "few repetitions", "many repetitions"),
)
"""Each surface signal (`interlock.learning.prompt.SURFACE`, in its order): its name, and what much and little of it are
called."""
TOLD = 3
"""Most properties that are told of a task."""
SPREADS_MIN = 0.25
"""How far off the mean of all prompts a task has to be for a property to be told, in standard deviations."""


def described(surfaces: bytes, tasks: int) -> list[str]:
    """What tells each task's prompts from the others, strongest first: "long prompts, much code"; "" where nothing
    does. `surfaces`: as in `types.learned.Weights`; of another length it says nothing."""
    if len(surfaces) != tasks * len(SIGNALS):
        return [""] * tasks
    values = memoryview(surfaces).cast("b")
    found = [_words([values[task * len(SIGNALS) + i] for i in range(len(SIGNALS))]) for task in range(tasks)]
    return [
        f"{words}; from others of that kind by its words" if words and found.count(words) > 1 else words
        for words in found
    ]


def _words(row: Sequence[int]) -> str:
    spreads = [value / SIGNAL_ONE * sqrt(len(SIGNALS)) for value in row]
    found: list[str] = []
    for number in sorted(range(len(spreads)), key=lambda n: (-abs(spreads[n]), n)):
        _, much, little = SIGNALS[number]
        words = much if spreads[number] > 0 else little
        if abs(spreads[number]) >= SPREADS_MIN and words not in found:
            found.append(words)
    return ", ".join(found[:TOLD])
