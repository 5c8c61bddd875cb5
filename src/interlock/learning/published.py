"""What a learner knows, as values that the gateway decides by, and back: the way from floats to integers.

A prompt's signals are rounded to 8 bits once, when it is read, and recorded. From there on everything is integer
arithmetic: the same signals and weights give the same expectations on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interlock.learning.linear import SURFACE_WEIGHT, WIDTH
from interlock.learning.prompt import SLOTS, SURFACE, read
from interlock.learning.understanding import MEANINGS, Understanding, meant, standardised
from interlock.types.learned import SIGNAL_ONE, Capability, Estimates, Weights, Words
from interlock.types.slo import Pace

MICRO = 1_000_000
LEAST_MICRO, MOST_MICRO = 10_000, 990_000
"""No model is expected to fail or to succeed always."""
SIGNALS = WIDTH - 1


class Reader:
    """Reads prompts as one `Words` says. Immutable. About 460 KB for 8,192 words."""

    def __init__(self, words: Words) -> None:
        """Raises ValueError when arrays do not fit together."""
        self.version = words.version
        self._rarity = np.frombuffer(words.rarity, np.uint8)
        self._rarity_step = np.float32(words.rarity_step)
        slots = np.frombuffer(words.slots, "<u2")
        rows = np.frombuffer(words.rows, np.int8).reshape(-1, words.directions)
        self._row_step = np.float32(words.row_step)
        self._mean = np.frombuffer(words.mean, "<f4")
        self._spread = np.frombuffer(words.spread, "<f4")
        if len(slots) != len(rows) or words.directions != MEANINGS or len(self._rarity) != SLOTS:
            raise ValueError("rows, rarities and slots are not of their lengths")
        if not len(self._mean) == len(self._spread) == len(SURFACE):
            raise ValueError("surface signals are not those of this version")
        self._rows = np.concatenate([rows, np.zeros((1, MEANINGS), np.int8)])
        self._places = np.full(SLOTS, len(rows), np.min_scalar_type(len(rows)))
        """Where in `_rows` each slot's row is: the last one, of zeros, where its words' meaning is not known."""
        self._places[slots] = np.arange(len(rows))

    def signals(self, text: str) -> bytes:
        """The signals of a prompt, `SIGNALS` signed bytes. About 0.3 ms for 4 KB."""
        prompt = read(text)
        telling = prompt.weights * (self._rarity.take(prompt.slots) * self._rarity_step)
        # INVARIANT: unknown words have rows too, which keeps the order of the sum, and so its last digit.
        rows = self._rows.take(self._places.take(prompt.slots), 0) * self._row_step
        surface = standardised(prompt.surface, self._mean, self._spread) * np.float32(SURFACE_WEIGHT)
        return _signals(np.concatenate([meant(telling, rows), surface])).tobytes()


class Expectations:
    """What one `Weights` expects, for any signals. Immutable."""

    def __init__(self, weights: Weights) -> None:
        """Raises ValueError when an array does not have its length."""
        self.weights = weights
        self._centres = np.frombuffer(weights.centres, np.int8).reshape(-1, MEANINGS).astype(np.int64)
        self._names = [arm.arm for arm in weights.arms]
        told = [np.frombuffer(arm.weights, "<i4") for arm in weights.arms if arm.weights]
        if any(len(row) != WIDTH for row in told) or len(told) not in (0, len(weights.arms)):
            raise ValueError("an arm has no weights, or not one per signal")
        self._linear = np.stack(told).astype(np.int64) if told else None
        self._verbosity = {arm.arm: arm.verbosity_milli for arm in weights.arms}
        self.paces = {p.offer: Pace(p.first_byte_us, p.token_us, p.completion_tokens) for p in weights.profiles}
        """How quickly each offer answers."""
        self._doubts: dict[int, dict[str, int]] = {}
        """By task, made when it is first met: what decisions work out of it is kept for the same mapping
        (`routing.table`)."""
        self._due = frozenset(arm.arm for arm in weights.arms if arm.due)
        self._failures = {p.offer: p.failure_micro for p in weights.profiles if p.failure_micro}

    def estimates(self, signals: bytes, data_class: int) -> Estimates:
        """What to expect. Without signals (or with those of another version's length) tasks and prompts are as one."""
        weights, task = self.weights, -1
        seen = None
        if len(signals) == SIGNALS and len(self._centres):
            seen = np.frombuffer(signals, np.int8).astype(np.int64)
            task = int((self._centres @ seen[:MEANINGS]).argmax())
        if seen is not None and self._linear is not None:
            raw = self._linear[:, 0] + self._linear[:, 1:] @ seen
            quality = dict(zip(self._names, np.clip(raw, LEAST_MICRO, MOST_MICRO).tolist(), strict=True))
        else:
            quality = {arm.arm: _mean(weights, arm.capabilities, task) for arm in weights.arms}
        doubt = self._doubts.get(task)
        if doubt is None:
            doubt = self._doubts[task] = {
                arm.arm: arm.doubts_micro[task] if task >= 0 else max(arm.doubts_micro, default=0)
                for arm in weights.arms
            }
        open_to = data_class <= weights.data_class_max
        return Estimates(
            weights.version,
            task,
            quality,
            doubt,
            self._verbosity,
            self._failures,
            weights.share_micro if open_to else 0,
            weights.money_micro if open_to else 0,
            self._due,
        )


def _mean(weights: Weights, capabilities: tuple[Capability, ...], task: int) -> int:
    """Of a task, or, where it is not known, of all as they occur."""
    if task >= 0:
        return capabilities[task].mean_micro
    shares = weights.task_shares_micro
    total = sum(shares)
    if not total:
        return capabilities[0].mean_micro
    return sum(c.mean_micro * s for c, s in zip(capabilities, shares, strict=True)) // total


def words_of(understanding: Understanding, version: int, most: int) -> Words:
    """An understanding as it is published: the `most` words that tell most, by how often and how strongly they do."""
    directions, rarity = understanding.directions[:, :MEANINGS], understanding.rarity
    telling = understanding.telling
    slots = np.sort(np.argsort(-telling, kind="stable")[:most])
    slots = slots[telling[slots] > 0]
    rows = directions[slots]
    row_step = float(np.abs(rows).max()) / SIGNAL_ONE if rows.size else 0.0
    rarity_step = float(rarity.max()) / 255
    mean, spread = understanding.surface
    return Words(
        version,
        MEANINGS,
        _steps(rarity, rarity_step).astype(np.uint8).tobytes(),
        rarity_step,
        slots.astype("<u2").tobytes(),
        _steps(rows, row_step).astype(np.int8).tobytes(),
        row_step,
        mean.astype("<f4").tobytes(),
        spread.astype("<f4").tobytes(),
    )


def _steps(values: NDArray[np.float32], step: float) -> NDArray[np.float32]:
    rounded: NDArray[np.float32] = np.rint(values / np.float32(step or 1.0))
    return rounded


def centres_of(understanding: Understanding) -> bytes:
    """The middles of an understanding's tasks as signals."""
    return _signals(understanding.tasks).tobytes()


def surfaces_of(surfaces: NDArray[np.float64]) -> bytes:
    """The mean surfaces of tasks as signals."""
    return _signals(surfaces.astype(np.float32)).tobytes()


def linear_of(weights: NDArray[np.float64]) -> bytes:
    """Linear weights of one arm (`WIDTH` values) as millionths per step of a signal."""
    steps = weights * MICRO
    steps[1:] /= SIGNAL_ONE
    return np.clip(np.rint(steps), -(2**31), 2**31 - 1).astype("<i4").tobytes()


def _signals(values: NDArray[np.float32]) -> NDArray[np.int8]:
    return np.clip(np.rint(values * SIGNAL_ONE), -SIGNAL_ONE, SIGNAL_ONE).astype(np.int8)
