"""What can be seen of a prompt by itself, in well under a millisecond and in bounded memory.

Words and pairs of neighbouring words are hashed, so no vocabulary grows with traffic and no text is kept. Surface
signals tell form from topic: length, digits, code, lists of options, questions, scripts.
"""

from __future__ import annotations

import re
from math import log1p
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

SLOTS = 1 << 16
"""Slots that words and pairs are hashed into."""
HEAD_CHARS = 3_000
TAIL_CHARS = 1_000
"""Of a longer text only its head and its tail are read."""

_WORD = re.compile(r"\w+")
_UPPER = re.compile(r"[A-Z]+")
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_CODE_SIGNS = (*"{};<>[]`|", "::")
_CODE_WORDS = ("def", "return")
_OPTION = re.compile(r"^[ \t]*\(?[A-Za-z0-9]{1,2}[.)]\s", re.MULTILINE)
_GAP = re.compile(r"_{2,}")
_NUMBER = re.compile(r"\d[\d.,]*")

SURFACE = (
    "characters",
    "words",
    "share of digits",
    "digits",
    "numbers",
    "lines",
    "share of letters",
    "share of capitals",
    "characters per word",
    "characters per line",
    "length of the last line",
    "question marks",
    "dollar signs",
    "backslashes",
    "share of equals signs",
    "brackets",
    "gaps to fill",
    "options",
    "share of commas",
    "code",
    "share outside ASCII",
    "different words",
)
"""Names of the surface signals, in order."""


class Prompt(NamedTuple):
    """A prompt as the learner sees it.

    `slots`: int32, ascending, each once. `weights`: float32, 1 + ln(count) of each slot. `surface`: float32, one value
    per name in `SURFACE`.
    """

    slots: Integers
    weights: Floats
    surface: Floats


def shown(text: str) -> str:
    """What is read of a text: all of it, or its head and its tail."""
    return text if len(text) <= HEAD_CHARS + TAIL_CHARS else f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"


def read(text: str) -> Prompt:
    """What a text shows. Any text, the empty one too; the same on every machine."""
    text = shown(text)
    words = _WORD.findall(text.lower())
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    hashes = [crc32(word) for word in encoded]
    hashes += [crc32(b"\x00" + second, first) for first, second in zip(hashes, encoded[1:], strict=False)]
    slots, counts = np.unique(np.array(hashes, np.uint32) & np.uint32(SLOTS - 1), return_counts=True)
    weights = 1 + np.log(counts)
    surface = np.array(_surface(text, words), np.float32)
    return Prompt(slots.astype(np.int32), weights.astype(np.float32), surface)


def _length(pattern: re.Pattern[str], text: str) -> int:
    return sum(map(len, pattern.findall(text)))


def _surface(text: str, words: list[str]) -> list[float]:
    size = len(text) + 1
    number = len(words) + 1
    numbers = _NUMBER.findall(text)
    digits = sum(len(n) - n.count(".") - n.count(",") for n in numbers)
    letters = sum(map(len, words)) - digits - text.count("_")
    lines = text.count("\n") + 1
    code = sum(map(text.count, _CODE_SIGNS)) + sum(map(words.count, _CODE_WORDS))
    last = len(text) - text.rfind("\n", 0, len(text.rstrip())) - 1
    return [
        log1p(len(text)),
        log1p(len(words)),
        digits / size,
        log1p(digits),
        log1p(len(numbers)),
        log1p(lines),
        letters / size,
        _length(_UPPER, text) / size,
        min(size / number, 40.0),
        log1p(size / lines),
        log1p(last),
        log1p(text.count("?")),
        log1p(text.count("$")),
        log1p(text.count("\\")),
        text.count("=") / size,
        log1p(text.count("(") + text.count("[")),
        log1p(len(_GAP.findall(text)) if "__" in text else 0),
        log1p(len(_OPTION.findall(text))),
        text.count(",") / size,
        log1p(code),
        (0 if text.isascii() else _length(_NON_ASCII, text)) / size,
        len(set(words)) / number,
    ]
