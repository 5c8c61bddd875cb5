"""What decisions need of an offer whatever the request, looked up once: offers stay as they are while a snapshot does.

It is remembered by the offer itself (its identity, while it is held here), so that another offer of the same name is
another one. At most `FACTS_MAX` are remembered; then it begins anew.
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

from interlock.routing.draws import packed
from interlock.routing.placement import alike
from interlock.types.learned import arm_of
from interlock.types.source import EngineState, Offer, loaded_bit

FACTS_MAX = 4096


class Facts(NamedTuple):
    """`resting`: nothing is sent there, whatever its reading says. `kind`: `placement.alike`. `priced`: what a call
    costs is known. `salt`: for the draws between offers
    (`draws.packed`)."""

    offer: Offer
    key: str
    source_id: str
    abilities: tuple[str, ...]
    context: int
    resting: bool
    off_prem: bool
    waiting_max: int
    concurrency: int | None
    arm: str
    quality_micro: int
    input_nusd: int
    output_nusd: int
    call_nusd: int
    priced: bool
    input_uj: int
    output_uj: int
    bit: int
    terms: str
    """Equal for offers that every request gets from at the same price and energy, and that the same is expected of."""
    kind: str
    salt: bytes
    often: tuple[str, str, str, int, int, bool]
    """(key, terms, kind, context, bit, off-prem), looked up at once."""


_known: dict[int, Facts] = {}


def facts_of(offer: Offer) -> Facts:
    """The facts of an offer."""
    found = _known.get(id(offer))
    if found is not None:
        return found
    if len(_known) >= FACTS_MAX:
        _known.clear()
    source, model = offer.source, offer.model
    price, power, limits, arm = model.price, model.power, source.limits, arm_of(model)
    priced = price.origin != "none" or source.labels.on_prem
    numbers = (model.quality_milli, price.input_nusd_per_mtok, price.output_nusd_per_mtok, priced)
    terms = f"{arm}\0{numbers}{power.input_uj_per_token} {power.output_uj_per_token}"
    key, kind, off_prem, bit = offer.key, alike(offer), not source.labels.on_prem, loaded_bit(model.name)
    found = _known[id(offer)] = Facts(
        offer,
        key,
        source.id,
        model.abilities,
        model.context_length,
        source.drained or bool(source.engine_state and source.engine_state != EngineState.ready),
        off_prem,
        limits.waiting_max,
        limits.concurrency,
        arm,
        model.quality_milli * 1000,
        price.input_nusd_per_mtok,
        price.output_nusd_per_mtok,
        price.call_nusd,
        priced,
        power.input_uj_per_token,
        power.output_uj_per_token,
        bit,
        terms,
        kind,
        packed(crc32(key.encode())),
        (key, terms, kind, model.context_length, bit, off_prem),
    )
    return found
