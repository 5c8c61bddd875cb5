"""Which offers' paces a worker keeps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from interlock.gateway.pace import Paces
from interlock.types.slo import Pace


def saw(paces: Paces, offer: str, first_us: int) -> None:
    attempt = cast("Any", SimpleNamespace(offer=SimpleNamespace(key=offer), relay=object(), sent_ns=0))
    outcome = cast("Any", SimpleNamespace(state="failed"))
    paces.saw(attempt, outcome, first_us)


def known(paces: Paces, *offers: str) -> dict[str, int]:
    """First-byte times of the offers that there is one of. Looking at them is a use of them, in this order."""
    found = {offer: paces.of(offer, None) for offer in offers}
    return {offer: pace.first_us for offer, pace in found.items() if pace is not None}


def test_a_new_offer_takes_the_place_of_the_one_that_answered_longest_ago() -> None:
    paces = Paces(2)
    saw(paces, "a", 100)
    saw(paces, "b", 200)
    saw(paces, "a", 100)
    saw(paces, "c", 300)
    assert known(paces, "a", "b", "c") == {"a": 100, "c": 300}


def test_an_offer_that_is_asked_for_is_in_use() -> None:
    paces = Paces(2)
    saw(paces, "a", 100)
    saw(paces, "b", 200)
    assert paces.of("a", None) == Pace(100)
    saw(paces, "c", 300)
    assert known(paces, "a", "b", "c") == {"a": 100, "c": 300}


def test_an_offer_that_nothing_is_known_of_takes_no_place() -> None:
    paces = Paces(2)
    saw(paces, "a", 100)
    saw(paces, "b", 200)
    learned = Pace(7)
    assert paces.of("x", learned) is learned and paces.of("y", None) is None
    assert known(paces, "a", "b") == {"a": 100, "b": 200}


def test_no_more_offers_are_kept_than_may_be_and_their_means_move() -> None:
    paces = Paces(3)
    for n in range(100):
        saw(paces, f"offer-{n}", n)
    saw(paces, "offer-99", 99 + 80)
    assert known(paces, *(f"offer-{n}" for n in range(100))) == {"offer-97": 97, "offer-98": 98, "offer-99": 109}
