"""What can be seen of a prompt by itself, in well under a millisecond and in bounded memory.

Words and pairs of neighbouring words are hashed, so no vocabulary grows with traffic and no text is kept. Where words
are written without blanks (Chinese, Japanese, Thai and others) each character is a word, and so each two are a pair.
Surface signals tell form from topic: length, digits, code, lists of options, questions, scripts.
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

ALONE_MAX = 640
"""Of so many characters without blanks each is a word; those after them are in words as blanks and others make them."""
_WORD = re.compile(r"\w+")
_ALONE_RANGES = (
    (0x0E00, 0x0F00),  # Thai, Lao
    (0x1000, 0x10A0),  # Burmese
    (0x1780, 0x1800),  # Khmer
    (0x3040, 0x3100),  # Japanese syllables
    (0x31F0, 0x3200),
    (0x3400, 0x4DC0),  # Chinese characters
    (0x4E00, 0xA000),
    (0xF900, 0xFB00),
    (0xFF66, 0xFFA0),  # narrow Japanese syllables
    (0x20000, 0x32400),  # rarer Chinese characters
)
"""Scripts that put no blanks between words: [first, end)."""
_DIGIT = re.compile(r"\d+")
_CODE_SIGNS = b"{};<>[]`|"
_CODE_WORDS = (b"def", b"return")
_OPTION = re.compile(r"\n[ \t]*\(?[A-Za-z0-9]{1,2}[.)](?=\s)")
_GAP = re.compile(r"_{2,}")

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
    encoded = text.encode("utf-8", "surrogatepass")
    told = _of_ascii(encoded) if text.isascii() else _of_any(text)
    words = told.line.split()
    slots, counts = _counted(_slots(words))
    surface = np.array(_surface(text, encoded, told, words), np.float32)
    return Prompt(slots.astype(np.int32), _WEIGHTS.take(counts), surface)


class _Told(NamedTuple):
    """A text by kinds of characters.

    `line`: its small letters and what else is of words, in UTF-8, with blanks for the rest. `letters`: how many of
    these characters are neither digit nor underscore. `numerals`: a zero for each digit, nothing for dots and commas,
    blanks for the rest.
    """

    line: bytes
    letters: int
    numerals: bytes


_CODES = 1 << 18
"""No character from this one on is of a word."""
_BLANK, _DOT, _ZERO, _ALONE, _IN_WORD = b" .0uw"


def _kinds() -> NDArray[np.uint8]:
    """Of each character: `_ZERO` for a digit, `_ALONE` for one that is a word, `_IN_WORD` for another one of words,
    `_DOT` for a dot or comma."""
    kinds = np.full(_CODES, _BLANK, np.uint8)
    every = np.arange(_CODES, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    for pattern, kind in ((_WORD, _IN_WORD), (_DIGIT, _ZERO)):
        for run in pattern.finditer(every):
            kinds[run.start() : run.end()] = kind
    for first, end in _ALONE_RANGES:
        some = kinds[first:end]
        some[some == _IN_WORD] = _ALONE
    kinds[[ord("."), ord(",")]] = _DOT
    return kinds


_KINDS = _kinds()
_NO_WORD = bytes.maketrans(bytes([_IN_WORD, _ALONE]), bytes([_BLANK, _BLANK]))
_ASCII = _KINDS[:128].tobytes()
_ASCII_LINE = bytes(c if kind >= _ZERO else _BLANK for c, kind in enumerate(_ASCII)).ljust(256)
_ASCII_NUMERALS = _ASCII.translate(_NO_WORD).ljust(256)
_ASCII_LETTERS = bytes(c for c, kind in enumerate(_ASCII) if kind == _IN_WORD and c != ord("_"))


def _of_ascii(text: bytes) -> _Told:
    """What `_of_any` says of such a text, in a third of the time."""
    letters = len(text) - len(text.translate(None, _ASCII_LETTERS))
    return _Told(text.lower().translate(_ASCII_LINE), letters, text.translate(_ASCII_NUMERALS, b".,"))


def _of_any(text: str) -> _Told:
    small = text.lower()
    codes = np.frombuffer(small.encode("utf-32-le", "surrogatepass"), "<u4")
    kinds = _KINDS.take(codes, mode="clip")
    line = np.where(kinds >= _ZERO, codes, np.uint32(_BLANK))
    alone = np.flatnonzero(kinds == _ALONE)
    if len(alone):
        some = alone[:ALONE_MAX]
        line = np.insert(line, np.concatenate((some, some + 1)), np.uint32(_BLANK))
    letters = int(np.count_nonzero(kinds == _IN_WORD)) + len(alone) - small.count("_")
    encoded = line.astype("<u4").tobytes().decode("utf-32-le").encode()
    return _Told(encoded, letters, kinds.tobytes().translate(_NO_WORD, bytes([_DOT])))


_LONG = 64
"""Words of more bytes are hashed with the ones before them one by one."""
_AFTER_ZERO = crc32(b"\x00")


def _followed() -> NDArray[np.uint16]:
    """What a word's hash adds to that of a pair: by the length of the second word, for each value of each of its bytes.

    A CRC is linear. With S_n(x) for what n more bytes make of a difference x, the CRC of a zero byte and a word of n
    bytes, begun from h, is S_{n+1}(h) ^ S_n(CRC(zero byte)) ^ CRC(word); and S_n(x) is what becomes of each byte of x
    together. The bits that make a slot are kept; the part without h is added to what becomes of its lowest byte.
    """
    step = np.array([crc32(b"\x00", value) ^ _AFTER_ZERO for value in range(256)], np.uint32)
    became = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)
    table = np.empty((_LONG + 1, 4, 256), np.uint16)
    for length in range(_LONG + 1):
        became = (became >> np.uint32(8)) ^ step[became & np.uint32(255)]
        table[length] = became & np.uint32(SLOTS - 1)
        table[length, 0] ^= np.uint16((crc32(bytes(length), _AFTER_ZERO) ^ crc32(bytes(length))) & (SLOTS - 1))
    return table.reshape(-1)


_FOLLOWED = _followed()
_BYTES = np.arange(0, 1024, 256)[:, None]
"""Where in `_FOLLOWED` what becomes of each byte of a hash begins."""


def _slots(words: list[bytes]) -> NDArray[np.uint16]:
    """The slots of words, by their CRC-32, and of pairs: of a zero byte and the second, begun from the first's."""
    number = len(words)
    hashes = np.fromiter(map(crc32, words), "<u4", number)
    slots = np.empty(max(0, 2 * number - 1), np.uint16)
    slots[:number] = hashes & np.uint32(SLOTS - 1)
    lengths = np.fromiter(map(len, words), np.int64, number)[1:]
    at = hashes[:-1].view(np.uint8).reshape(-1, 4).T + (_BYTES + (np.minimum(lengths, _LONG) << 10))
    np.bitwise_xor(slots[1:number], np.bitwise_xor.reduce(_FOLLOWED.take(at), 0), out=slots[number:])
    for n in np.flatnonzero(lengths > _LONG).tolist():
        slots[number + n] = crc32(b"\x00" + words[n + 1], int(hashes[n])) & (SLOTS - 1)
    return slots


def _counted(slots: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """The slots in their order, each once, and how often each occurs. Sorts them in place."""
    slots.sort()
    begins = np.ones(len(slots) + 1, np.bool_)
    np.not_equal(slots[1:], slots[:-1], out=begins[1:-1])
    at = np.flatnonzero(begins)
    return slots.take(at[:-1]), at[1:] - at[:-1] - 1


_WEIGHTS = (1 + np.log(np.arange(1, 4 * (HEAD_CHARS + TAIL_CHARS)))).astype(np.float32)
"""Of what occurs once, twice and so on; a text that is read has fewer words and pairs."""


def _surface(text: str, encoded: bytes, told: _Told, words: list[bytes]) -> list[float]:
    of = np.bincount(np.frombuffer(encoded, np.uint8), minlength=256).tolist()
    """How often each character of ASCII occurs. In UTF-8 their bytes are part of no other."""
    size = len(text) + 1
    number = len(words) + 1
    digits = told.numerals.count(b"0")
    lines = of[ord("\n")] + 1
    code = sum(of[sign] for sign in _CODE_SIGNS) + text.count("::")
    code += sum(words.count(word) for word in _CODE_WORDS if word in told.line)
    last = len(text) - text.rfind("\n", 0, len(text.rstrip())) - 1
    return [
        log1p(len(text)),
        log1p(len(words)),
        digits / size,
        log1p(digits),
        log1p(len(told.numerals.split())),
        log1p(lines),
        told.letters / size,
        sum(of[ord("A") : ord("Z") + 1]) / size,
        min(size / number, 40.0),
        log1p(size / lines),
        log1p(last),
        log1p(of[ord("?")]),
        log1p(of[ord("$")]),
        log1p(of[ord("\\")]),
        of[ord("=")] / size,
        log1p(of[ord("(")] + of[ord("[")]),
        log1p(len(_GAP.findall(text)) if "__" in text else 0),
        log1p(len(_OPTION.findall("\n" + text))),
        of[ord(",")] / size,
        log1p(code),
        (len(text) - sum(of[:128])) / size,
        len(set(words)) / number,
    ]
