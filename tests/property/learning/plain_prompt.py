"""What is seen of a prompt, written down plainly: what `interlock.learning.prompt` and `Reader` must say to the bit.

Published states, trainers and records rest on these numbers: whoever changes one changes what all of them mean.
"""

from __future__ import annotations

import re
from math import log1p
from zlib import crc32

import numpy as np

from interlock.learning.linear import SURFACE_WEIGHT
from interlock.learning.prompt import Prompt
from interlock.learning.understanding import MEANINGS, meant, standardised
from interlock.types.learned import Words

SLOTS = 65_536
HEAD_CHARS, TAIL_CHARS = 3_000, 1_000
WITHOUT_BLANKS = (
    *((0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3040, 0x3100), (0x31F0, 0x3200), (0x3400, 0x4DC0)),
    *((0x4E00, 0xA000), (0xF900, 0xFB00), (0xFF66, 0xFFA0), (0x20000, 0x32400)),
)
OPTION = re.compile(r"^[ \t]*\(?[A-Za-z0-9]{1,2}[.)]\s", re.MULTILINE)


def read(text: str) -> Prompt:
    """See `interlock.learning.prompt.read`."""
    if len(text) > HEAD_CHARS + TAIL_CHARS:
        text = f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"
    words = _words(text.lower())
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    hashes = [crc32(word) for word in encoded]
    hashes += [crc32(b"\x00" + second, first) for first, second in zip(hashes, encoded[1:], strict=False)]
    slots, counts = np.unique(np.array(hashes, np.uint32) & np.uint32(SLOTS - 1), return_counts=True)
    weights = (1 + np.log(counts)).astype(np.float32)
    return Prompt(slots.astype(np.int32), weights, np.array(_surface(text, words), np.float32))


def _words(text: str) -> list[str]:
    """Runs of characters of words; the first 640 characters that are written without blanks each by itself."""
    found: list[str] = []
    left = 640
    for run in re.findall(r"\w+", text):
        word = ""
        for character in run:
            if (
                left
                and not character.isdecimal()
                and any(first <= ord(character) < end for first, end in WITHOUT_BLANKS)
            ):
                left -= 1
                found += [word, character]
                word = ""
            else:
                word += character
        found.append(word)
    return [word for word in found if word]


def _surface(text: str, words: list[str]) -> list[float]:
    size, number, lines = len(text) + 1, len(words) + 1, text.count("\n") + 1
    digits = len(re.findall(r"\d", text))
    last = len(text) - text.rfind("\n", 0, len(text.rstrip())) - 1
    code = sum(map(text.count, (*"{};<>[]`|", "::"))) + words.count("def") + words.count("return")
    return [
        log1p(len(text)),
        log1p(len(words)),
        digits / size,
        log1p(digits),
        log1p(len(re.findall(r"\d[\d.,]*", text))),
        log1p(lines),
        (sum(map(len, words)) - digits - text.count("_")) / size,
        len(re.findall(r"[A-Z]", text)) / size,
        min(size / number, 40.0),
        log1p(size / lines),
        log1p(last),
        log1p(text.count("?")),
        log1p(text.count("$")),
        log1p(text.count("\\")),
        text.count("=") / size,
        log1p(text.count("(") + text.count("[")),
        log1p(len(re.findall(r"_{2,}", text))),
        log1p(len(OPTION.findall(text))),
        text.count(",") / size,
        log1p(code),
        len(re.findall(r"[^\x00-\x7f]", text)) / size,
        len(set(words)) / number,
    ]


def signals(words: Words, text: str) -> bytes:
    """See `interlock.learning.published.Reader.signals`."""
    prompt = read(text)
    telling = prompt.weights * (np.frombuffer(words.rarity, np.uint8)[prompt.slots] * np.float32(words.rarity_step))
    slots = np.frombuffer(words.slots, "<u2").tolist()
    meanings = np.frombuffer(words.rows, np.int8).reshape(-1, MEANINGS)
    known = {slot: meanings[n] * np.float32(words.row_step) for n, slot in enumerate(slots)}
    rows = np.zeros((len(telling), MEANINGS), np.float32)
    for n, slot in enumerate(prompt.slots.tolist()):
        if slot in known:
            rows[n] = known[slot]
    mean, spread = np.frombuffer(words.mean, "<f4"), np.frombuffer(words.spread, "<f4")
    surface = standardised(prompt.surface, mean, spread) * np.float32(SURFACE_WEIGHT)
    steps = np.rint(np.concatenate([meant(telling, rows), surface]) * 127)
    cut: np.ndarray[tuple[int], np.dtype[np.int8]] = np.clip(steps, -127, 127).astype(np.int8)
    return cut.tobytes()
