"""Whatever the text: what is seen of it, and the signals that calls are decided by, are those of the plain way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.learning.prompt import read
from interlock.learning.published import Reader
from interlock.types.learned import Words
from tests.unit.learning.samples import TOPICS
from tests.unit.learning.test_published import taught

from . import plain_prompt

EVERY = 0x110000
_any_text = st.text(st.characters(exclude_categories=()))
_pieces = st.sampled_from(
    [
        *(
            "def",
            "return",
            "Def",
            "a",
            "x1",
            "__init__",
            "_",
            "___",
            "::",
            ":::",
            "1.5",
            ".5",
            "5.",
            "1,000.25",
            "...",
            "7",
        ),
        *(
            "\n",
            "\n\n",
            " \n",
            "\nA. ",
            "\n (b)\t",
            "\n1.\n2) ",
            "\r\n",
            "12) ",
            "\n\u0661. ",
            "\nc)\x85",
            "\x1c",
            "\xa0",
        ),
        *("?", "$x$", "\\frac", "=", "[]", "{a: b}", "<p>", "`|`", "'", " ", "  ", "\t", "\x00", "\x7f", ","),
        *(
            "Straße",
            "İ",
            "İİ",
            "ΣΑΣ",
            "ſ",
            "e\u0301",
            "K",
            "日本語の質問",
            "١٢٣",
            "٤,٥",
            "１２",
            "²",
            "Ⅷ",
            "क्षि",
            "สวัสดี",
            "한국",
        ),
        *("\U0001f600", "\U00020000", "\U0001d7d9", "\U000e0100", "\U0010ffff", "\ud800", "\udfff", "\ud83d\ude00"),
        *("w" * 63, "w" * 64, "w" * 65, "é" * 32, "語" * 22, "z" * 300, *TOPICS["law"][:5], *TOPICS["cooking"][:5]),
    ]
)
_made = st.lists(_pieces, max_size=60).flatmap(lambda made: st.sampled_from(("".join(made), " ".join(made))))
_long = st.tuples(_made, st.integers(1, 400)).map(lambda made: made[0] * made[1])
_texts = st.one_of(_any_text, _made, _long, st.text("0123456789.,"), st.text("aZ_ \n1.)"))


def _same(text: str) -> None:
    seen, plain = read(text), plain_prompt.read(text)
    for one, other in zip(seen, plain, strict=True):
        assert one.dtype == other.dtype and one.tolist() == other.tolist()


@given(_texts)
@example("")
@example("a" * 100_000)
@example("İ" * 5_000)
@example("9" * 5_000)
@example("語" * 5_000)
@example("合同" * 400 + "，x" + "法律" * 300)
def test_what_is_seen_of_a_text_is_what_the_plain_way_sees(text: str) -> None:
    _same(text)


def test_every_character_is_of_the_kind_that_the_plain_way_finds() -> None:
    for begin in range(0, EVERY, 1024):
        _same(" ".join(map(chr, range(begin, begin + 1024))))


@pytest.fixture(scope="module")
def words() -> Words:
    found = taught(400).state(1, 1000)[1]
    assert found is not None
    return found


@pytest.mark.parametrize("share", [1, 2, 1000])
def test_signals_are_those_of_the_plain_way(words: Words, share: int) -> None:
    """`share`: of the words, every so-many-th one's meaning is published."""
    slots = np.frombuffer(words.slots, "<u2")[::share][: len(words.slots) // 2 if share < 1000 else 0]
    rows = np.frombuffer(words.rows, np.int8).reshape(-1, words.directions)[::share][: len(slots)]
    some = Words(
        words.version,
        words.directions,
        words.rarity,
        words.rarity_step,
        slots.tobytes(),
        rows.tobytes(),
        words.row_step,
        words.mean,
        words.spread,
    )
    reader = Reader(some)

    @given(_texts)
    def same(text: str) -> None:
        assert reader.signals(text) == plain_prompt.signals(some, text)

    same()
