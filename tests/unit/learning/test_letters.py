"""Runs of letters: which there are of a text, and how they are weighed."""

from __future__ import annotations

import numpy as np

from interlock.learning.letters import Letters, Runs, runs
from interlock.learning.prompt import HEAD_CHARS, TAIL_CHARS
from interlock.learning.sparse import Rows


def test_a_text_has_all_runs_of_three_to_five_letters_with_its_edges() -> None:
    assert len(runs("abc").slots) == 3 + 2 + 1  # of " abc "
    assert len(runs("").slots) == len(runs(" \n ").slots) == 0
    told = runs("banana")
    assert len(told.slots) == (6 - 1) + 5 + 4, "'ana' counts once"
    assert (np.diff(told.slots) > 0).all() and np.isclose(told.weights.max(), 1 + np.log(2))


def test_small_letters_and_gaps_do_not_matter_and_order_does() -> None:
    assert (runs("Wave\n  LENGTH").slots == runs("wave length").slots).all()
    assert set(runs("wave length").slots) != set(runs("length wave").slots)
    assert len(runs("\ud800é漢字").slots) == 4 + 3 + 2


def test_of_a_long_text_head_and_tail_are_read() -> None:
    head, tail = "a" * HEAD_CHARS, "b" * TAIL_CHARS
    assert (runs(head + "c" * 5000 + tail).slots == runs(head + "\n" + tail).slots).all()


def test_rows_have_unit_length_and_what_was_seen_once_weighs_nothing() -> None:
    sample = [runs("momentum and torque"), runs("momentum of a photon"), runs("simmer the onion")]
    letters = Letters(sample)
    rows = letters.rows([*sample, runs("zzzz"), Runs(np.zeros(0, np.int32), np.zeros(0, np.float32))])
    lengths = [float(v) for v in _squares(rows, 5)]
    assert np.allclose(lengths[:2], 1, atol=1e-5) and lengths[3:] == [0, 0]
    alike = letters.rows([sample[0]]).times(letters.rows([sample[1]]).transposed_times(np.ones((1, 1), np.float32)))
    assert 0.3 < float(alike[0, 0]) <= 1.0001


def _squares(rows: Rows, number: int) -> list[float]:
    out = []
    for row in range(number):
        one = np.zeros((number, 1), np.float32)
        one[row] = 1
        out.append(float((rows.transposed_times(one) ** 2).sum()))
    return out
