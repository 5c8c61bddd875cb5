"""What traffic teaches about prompts before any outcome is known.

From a sample of prompts: which words are rare (inverse document frequencies; a slot seen once weighs nothing), the
directions in which prompts differ most (a truncated singular value decomposition), and tasks: clusters of prompts in
those directions. No labels are used, and nothing but numbers is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from interlock.learning.prompt import SLOTS, SURFACE, Floats, Prompt
from interlock.learning.sparse import Rows, document_counts

DIRECTIONS = 64
MEANINGS = 32
"""Of these, the first ones, in which prompts differ most: what tasks and the online learner see."""
SAMPLE = 4096
"""Most prompts that directions and tasks are found in."""
TASKS_MAX = 32
PROMPTS_PER_TASK = 60
WAVES = 192
"""Cosine features that approximate a Gaussian kernel over the surface signals."""
MEANING_SCALE = 1.5
_SURFACE_SCALE = 0.45
_WAVE_SCALE = 0.7
_CLIP = 3.0
_POWER_ROUNDS = 2
_CLUSTER_ROUNDS = 20


class Views(NamedTuple):
    """A batch of prompts, understood: one row each.

    `meaning`: unit vectors in `DIRECTIONS`. `surface`: standardised, `SURFACE` values of about unit length together.
    `waves`: `WAVES` values. `task`: number of the nearest task.
    """

    meaning: Floats
    surface: Floats
    waves: Floats
    task: np.ndarray[tuple[int], np.dtype[np.int64]]


class Understanding:
    """What was learned from one sample of prompts. Immutable."""

    def __init__(self, prompts: Sequence[Prompt], rng: Generator) -> None:
        """Learn from at least two prompts, in time linear in their size. Deterministic for a generator's state."""
        counts = document_counts(prompts, SLOTS)
        rarity = np.log((1 + len(prompts)) / (1 + counts)) + 1
        self.rarity: Floats = np.where(counts > 1, rarity, 0).astype(np.float32)
        surface = np.stack([p.surface for p in prompts])
        self.surface: tuple[Floats, Floats] = surface.mean(0), surface.std(0) + np.float32(1e-6)
        """Mean and spread of each surface signal."""
        self._frequencies: Floats = rng.normal(0, 2**0.5, (len(SURFACE), WAVES)).astype(np.float32)
        self._phases: Floats = rng.uniform(0, 2 * np.pi, WAVES).astype(np.float32)
        sample = prompts
        if len(prompts) > SAMPLE:
            sample = [prompts[i] for i in np.sort(rng.choice(len(prompts), SAMPLE, replace=False))]
        self.directions: Floats = _directions(self.words(sample), rng)
        """One row per slot."""
        self.telling: Floats = (
            np.sqrt(counts).astype(np.float32) * self.rarity * np.linalg.norm(self.directions, axis=1)
        )
        """How much each slot tells of the prompts that these were."""
        self.tasks: Floats = np.zeros((1, MEANINGS), np.float32)
        meaning = np.stack([unit(row) for row in self.views(sample).meaning[:, :MEANINGS]])
        self.tasks = _clusters(meaning, min(TASKS_MAX, max(1, len(sample) // PROMPTS_PER_TASK)), rng)

    def words(self, prompts: Sequence[Prompt]) -> Rows:
        """The prompts' words by rarity, each row of unit length (or zero when nothing in it is known)."""
        slots, values = [], []
        for prompt in prompts:
            value = prompt.weights * self.rarity[prompt.slots]
            known = value > 0
            value = value[known]
            norm = float(value @ value) ** 0.5
            slots.append(prompt.slots[known])
            values.append(value / norm if norm else value)
        starts = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int64)
        return Rows(np.concatenate(slots).astype(np.int64), np.concatenate(values), starts, SLOTS)

    def views(self, prompts: Sequence[Prompt]) -> Views:
        """All prompts of a batch, understood."""
        seen = [self.view(p) for p in prompts]
        surface = np.stack([s for _, s in seen])
        meaning = np.stack([unit(m) for m, _ in seen])
        waves = np.cos(surface @ self._frequencies + self._phases) * np.float32((2 / WAVES) ** 0.5 * _WAVE_SCALE)
        return Views(
            meaning, surface * np.float32(_SURFACE_SCALE), waves, (meaning[:, :MEANINGS] @ self.tasks.T).argmax(1)
        )

    def view(self, prompt: Prompt) -> tuple[Floats, Floats]:
        """(meaning in `DIRECTIONS`, standardised surface of about unit length) of one prompt."""
        telling = prompt.weights * self.rarity.take(prompt.slots)
        return meant(telling, self.directions.take(prompt.slots, 0)), standardised(prompt.surface, *self.surface)

    def task_of(self, meaning: Floats) -> int:
        """Number of the nearest task."""
        return int((self.tasks @ meaning[:MEANINGS]).argmax())


def meant(telling: Floats, rows: Floats) -> Floats:
    """Where words with these weights point: the shorter, the less of what they say lies in the directions."""
    norm = float(telling @ telling) ** 0.5
    meaning: Floats = telling @ rows
    return meaning * np.float32(MEANING_SCALE / norm) if norm else meaning


def unit(vector: Floats) -> Floats:
    """The vector at length one, or itself when it is zero."""
    norm = float(vector @ vector) ** 0.5
    return vector * np.float32(1 / norm) if norm else vector


def standardised(surface: Floats, mean: Floats, spread: Floats) -> Floats:
    """Surface signals in their spreads from the mean, cut, of about unit length together."""
    cut = np.clip((surface - mean) / spread, -_CLIP, _CLIP)
    unit: Floats = (cut / len(SURFACE) ** 0.5).astype(np.float32)
    return unit


def _directions(words: Rows, rng: Generator) -> Floats:
    """Right singular vectors of the largest singular values, `SLOTS` by `DIRECTIONS`: Halko's randomised range."""
    words, columns = words.packed()
    basis = rng.normal(size=(words.width, DIRECTIONS + 8)).astype(np.float32)
    for _ in range(_POWER_ROUNDS):
        left, _unused = np.linalg.qr(words.times(basis))
        basis = words.transposed_times(left)
    left, _unused = np.linalg.qr(words.times(basis))
    small = words.transposed_times(left)
    values, vectors = np.linalg.eigh((small.T @ small).astype(np.float64))
    found = small @ vectors[:, ::-1].astype(np.float32)
    found /= np.sqrt(np.maximum(values[::-1], 1e-6)).astype(np.float32)
    out = np.zeros((SLOTS, DIRECTIONS), np.float32)
    out[columns, : min(DIRECTIONS, found.shape[1])] = found[:, :DIRECTIONS]
    return out


def _clusters(points: Floats, number: int, rng: Generator) -> Floats:
    """Centres of unit length: k-means on directions, begun by k-means++."""
    chosen = [int(rng.integers(len(points)))]
    far = 1 - points @ points[chosen[0]]
    while len(chosen) < number:
        weight = np.maximum(far, 0).astype(np.float64) + 1e-12
        chosen.append(int(rng.choice(len(points), p=weight / weight.sum())))
        far = np.minimum(far, 1 - points @ points[chosen[-1]])
    centres = points[chosen].copy()
    for _ in range(_CLUSTER_ROUNDS):
        task = (points @ centres.T).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, task, points)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centres)
    return centres
