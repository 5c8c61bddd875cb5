"""How well an offer suits a mode, in millionths. Integers only, so that a replay gives the same figure.

Every part is absolute: it depends on the offer and the request, not on the other candidates. So a candidate that
appears or disappears never changes the order of the others.

    score = w_quality * quality + w_cost * (1 - cost) + w_latency * (1 - latency) + w_energy * (1 - energy)

- quality: what is expected of the model for this prompt, else its prior; less the share of its tries that fail.
- cost: mean price per token over the request's token bounds, p / (p + 1 USD per million tokens). Free is 0. A model
  whose answers are longer than others' costs by so much more.
- latency: time to first byte on a logarithmic scale, one step per doubling, so that the noise of a moving average
  does not separate equal replicas. Unknown is one half.
- energy: mean energy per token, e / (e + 1 J). Unknown is one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from interlock.routing.facts import Facts, Worth
from interlock.types.learned import Estimates
from interlock.types.request import Features, Target

MICRO = 1_000_000
UNKNOWN_MICRO = MICRO // 2
COST_HALF_NUSD_PER_MTOK = 1_000_000_000
ENERGY_HALF_UJ_PER_TOKEN = 1_000_000
ALIKE = 1000
"""The verbosity, in thousandths, of a model whose answers are as long as the mean."""
LATENCY_STEPS = 17
"""Doublings from 1 ms to about two minutes."""
Merit = tuple[int, int, int, int]
"""(quality while nothing fails, cost, energy, merit). The scores of its offers are (merit - w_latency * latency) /
1,000,000, rounded down."""

Parts = tuple[int, int, int]
"""Of a `Merit`: quality, cost, energy."""


class Weights(NamedTuple):
    """Weights of one mode, in millionths; they add up to one million."""

    quality: int
    cost: int
    latency: int
    energy: int


WEIGHTS = {
    "eco": Weights(quality=200_000, cost=350_000, latency=50_000, energy=400_000),
    "balanced": Weights(quality=500_000, cost=250_000, latency=150_000, energy=100_000),
    "quality": Weights(quality=850_000, cost=50_000, latency=90_000, energy=10_000),
}

OWN = "own"
"""The mode of a decision by weights that its caller or its alias brought."""


def weights_of(features: Features, target: Target) -> Weights:
    """What a call is decided by: its caller's weights, else its alias's, else those of its mode."""
    own = features.weights or target.weights
    return Weights(*own) if own else WEIGHTS.get(target.mode) or WEIGHTS["balanced"]


def normal(quality: int, cost: int, latency: int, energy: int) -> Weights:
    """Weights in millionths that stand to each other as these do, which are at least 0 and not all 0."""
    parts = (quality, cost, latency, energy)
    total = sum(parts)
    shares = [MICRO * part // total for part in parts]
    shares[parts.index(max(parts))] += MICRO - sum(shares)
    return Weights(*shares)


def latency_micro(first_byte_us: int) -> int:
    """The latency part for a time to first byte in microseconds: 0 below 1 ms, 1,000,000 from about two minutes on."""
    step = (max(first_byte_us, 0) // 1000).bit_length()
    return min(step, LATENCY_STEPS) * MICRO // LATENCY_STEPS


def scored(
    facts: Facts,
    prompt_tokens: int,
    completion_tokens: int,
    weights: Weights,
    latency: int = UNKNOWN_MICRO,
    estimates: Estimates | None = None,
) -> tuple[int, int, int, int, int]:
    """(score, quality, cost, latency, energy) of an offer, each 0 to 1,000,000; a higher score is better.

    The token bounds weigh input against output prices. `latency`: already in millionths (`latency_micro`).
    `estimates`: what is known of models for such a prompt; None: their priors.
    """
    ((quality, cost, energy, merit),) = merits((facts.worth,), prompt_tokens, completion_tokens, weights, estimates)
    failure = estimates.failure_micro.get(facts.key) if estimates is not None else None
    if failure:
        quality, merit = failing(quality, merit, failure, weights.quality)
    return (merit - weights.latency * latency) // MICRO, quality, cost, latency, energy


def merit_of(quality: int, cost: int, energy: int, weights: Weights) -> int:
    """The merit that these make."""
    w_quality, w_cost, w_latency, w_energy = weights
    return (w_cost + w_latency + w_energy) * MICRO + w_quality * quality - w_cost * cost - w_energy * energy


def failing(quality: int, merit: int, failure: int, w_quality: int) -> tuple[int, int]:
    """(quality, merit) of an offer of which that share of tries fails."""
    left = quality * (MICRO - failure) // MICRO
    return left, merit - w_quality * (quality - left)


def merits(
    worths: Sequence[Worth], prompt_tokens: int, completion_tokens: int, weights: Weights, estimates: Estimates | None
) -> list[Merit]:
    """Of each, one after the other: what `table.scores_at_once` is held to."""
    w_quality, w_cost, w_latency, w_energy = weights
    most, tokens = (w_cost + w_latency + w_energy) * MICRO, (prompt_tokens + completion_tokens) or 1
    qualities = estimates.quality_micro if estimates is not None else {}
    verbosities = estimates.verbosity_milli if estimates is not None else {}
    found: list[Merit] = []
    for arm, prior, per_input, per_output, _, priced, energy_in, energy_out in worths:
        quality = prior
        if estimates is not None:
            quality = qualities.get(arm, prior)
            per_output = per_output * verbosities.get(arm, ALIKE) // ALIKE
        cost = (per_input * prompt_tokens + per_output * completion_tokens) // tokens
        if cost:
            cost = MICRO * cost // (cost + COST_HALF_NUSD_PER_MTOK)
        elif not priced:
            cost = UNKNOWN_MICRO
        energy = UNKNOWN_MICRO
        if energy_in or energy_out:
            energy = (energy_in * prompt_tokens + energy_out * completion_tokens) // tokens
            energy = MICRO * energy // (energy + ENERGY_HALF_UJ_PER_TOKEN)
        found.append((quality, cost, energy, most + w_quality * quality - w_cost * cost - w_energy * energy))
    return found
