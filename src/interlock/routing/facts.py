"""What decisions need of an offer whatever the request, looked up once: offers stay as they are while a snapshot does.

It is remembered by the offer itself (its identity, while it is held here), so that another offer of the same name is
another one; and so of a tuple of offers, which policy gives anew only when what it allows changes. At most `FACTS_MAX`
offers and `SLATES_MAX` tuples are remembered; then it begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from interlock.routing.draws import packed
from interlock.types.learned import arm_of
from interlock.types.source import EngineState, Offer, loaded_bit

FACTS_MAX = 4096
SLATES_MAX = 512


class Facts(NamedTuple):
    """`resting`: nothing is sent there, whatever its reading says. `kind`: `alike`. `salt`: for the draws between
    offers. The tuples are what is looked up at once."""

    offer: Offer
    key: str
    source_id: str
    abilities: tuple[str, ...]
    context: int
    resting: bool
    arm: str
    bit: int
    kind: str
    salt: int
    often: tuple[str, str, str, int, int, bool, int, int | None]
    """(key, terms, kind, context, bit, off-prem, waiting_max, concurrency). Terms are equal for offers that every
    request gets from at the same price and energy, and that the same is expected of."""
    worth: tuple[str, int, int, int, bool, int, int]
    """(arm, quality_micro, input_nusd, output_nusd, whether its price is known, input_uj, output_uj)."""
    price: tuple[bool, int, int, int]
    """(whether it is known, input_nusd, output_nusd, call_nusd): the first three per million tokens."""


class Slate(NamedTuple):
    """What a set of offers has in common. `source_ids`, `facts`: of each, in their order. `lanes`: their salts
    (`draws.packed`). `abilities`: what all of them can do. `context`: the smallest that is declared, `ANY_LENGTH` when
    none is. `resting`: one of them is. `replicated`: a model is among them more than once."""

    offers: Sequence[Offer]
    facts: tuple[Facts, ...]
    source_ids: tuple[str, ...]
    lanes: int
    abilities: frozenset[str]
    context: int
    resting: bool
    replicated: bool
    sources: tuple[str, ...]
    """Their ids, each once, in order."""
    zeros: tuple[int, ...]
    """As many as offers: where no ranks are wanted."""


ANY_LENGTH = 1 << 62
"""A context that every prompt fits."""

_known: dict[int, Facts] = {}
_slates: dict[int, Slate] = {}


def alike(offer: Offer) -> str:
    """What the replicas of a model have in common, besides their scores."""
    model = offer.model
    return f"{model.name}\0{model.version}\0{offer.source.labels.on_prem:d}"


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
    per_input, per_output, quality = price.input_nusd_per_mtok, price.output_nusd_per_mtok, model.quality_milli * 1000
    found = _known[id(offer)] = Facts(
        offer,
        key,
        source.id,
        model.abilities,
        model.context_length,
        source.drained or bool(source.engine_state and source.engine_state != EngineState.ready),
        arm,
        bit,
        kind,
        crc32(key.encode()),
        (key, terms, kind, model.context_length, bit, off_prem, limits.waiting_max, limits.concurrency),
        (arm, quality, per_input, per_output, priced, power.input_uj_per_token, power.output_uj_per_token),
        (priced, per_input, per_output, price.call_nusd),
    )
    return found


def slate_of(offers: Sequence[Offer]) -> Slate:
    """What these offers have in common. Remembered per tuple of offers: pass the same tuple."""
    found = _slates.get(id(offers))
    if found is not None:
        return found
    facts = tuple([facts_of(offer) for offer in offers])
    made = Slate(
        offers,
        facts,
        tuple([each.source_id for each in facts]),
        packed([each.salt for each in facts]),
        frozenset(facts[0].abilities).intersection(*[each.abilities for each in facts]) if facts else frozenset(),
        min([each.context for each in facts if each.context > 0], default=ANY_LENGTH),
        any(each.resting for each in facts),
        len({each.offer.model.name for each in facts}) < len(facts),
        tuple(sorted({each.source_id for each in facts})),
        (0,) * len(facts),
    )
    if type(offers) is tuple:  # anything else could change and keep its identity
        if len(_slates) >= SLATES_MAX:
            _slates.clear()
        _slates[id(offers)] = made
    return made
