"""What decisions need of an offer whatever the request, looked up once: offers stay as they are while a snapshot does.

It is remembered by the offer itself (its identity, while it is held here), so that another offer of the same name is
another one; and so of a tuple of offers, which policy gives anew only when what it allows changes. At most `FACTS_MAX`
offers and `SLATES_MAX` tuples are remembered; then it begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from operator import attrgetter
from sys import intern
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from interlock.routing.draws import packed
from interlock.types.learned import arm_of
from interlock.types.source import EngineState, Offer, loaded_bit

if TYPE_CHECKING:
    from interlock.routing.table import Table

FACTS_MAX = 4096
SLATES_MAX = 512
MANY = 24
"""From so many different worths on columns are quicker than a loop (measured; about equal from 18 to 24)."""
PER_CALLS = 1_000_000
_by_source = attrgetter("source_id")


Often = tuple[str, str, int, int, bool, int, int | None, "Later"]
"""What each decision looks up of each offer: (key, kind, bit, context, off-prem, waiting_max, concurrency, later)."""
Later = tuple[str, int, str, bool, int, int, int, int]
"""What is asked of an offer when decisions know its place: (kind, salt, arm, whether its price is known, input_nusd,
output_nusd, call_nusd, the number of its worth), prices per million tokens and per million calls; in a `Slate` in units
that all are multiples of: prices are often whole cents, and of two that are compared small numbers are the quicker
ones. The number is known in a `Slate` alone, and 0 elsewhere."""
Worth = tuple[str, int, int, int, int, bool, int, int]
"""(arm, quality_micro, input_nusd, output_nusd, call_nusd per million calls, whether its price is known, input_uj,
output_uj): where it is equal, every request gets the same at the same price and energy, and the same is expected."""


class Facts(NamedTuple):
    """`resting`: nothing is sent there, whatever its reading says. `kind`: `alike`. `salt`: for the draws between
    offers. The tuples are what is looked up at once, and plain: taking one apart is the quickest way to a field."""

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
    often: Often
    worth: Worth


class Slate(NamedTuple):
    """What a set of offers has in common.

    `source_ids`, `keys`, `facts`, `often`: of each, by source id. `kinds`: the number of its kind. `leads`: the place
    of the first of each kind, where all of each are of one worth; else empty. `worths`: their different ones;
    `worth_of`: which of these is whose. `lanes`: their salts (`draws.packed`). `twins`: two have the same salt.
    `abilities`: what all of them can do. `context`: the smallest that is declared, `ANY_LENGTH` when none is.
    `resting`: one of them is. `replicated`: a model is among them more than once. `single`: no two are of one source.
    """

    offers: Sequence[Offer]
    facts: tuple[Facts, ...]
    often: tuple[Often, ...]
    worths: tuple[Worth, ...]
    worth_of: tuple[int, ...]
    numbers: tuple[int, ...] | None
    """`worth_of`, where each is of a worth of its own, and so they are in their order."""
    source_ids: tuple[str, ...]
    keys: tuple[str, ...]
    kinds: tuple[int, ...]
    leads: tuple[int, ...]
    lanes: int
    twins: bool
    abilities: frozenset[str]
    context: int
    resting: bool
    replicated: bool
    single: bool
    zeros: tuple[int, ...]
    """As many as offers: where no ranks are wanted."""
    table: Table | None
    """`worths` by column, where they are many."""
    varied: bool
    """Each is of a model of its own, at a price that is known."""


ANY_LENGTH = 1 << 62
"""A context that every prompt fits."""

_known: dict[int, Facts] = {}
_slates: dict[int, Slate] = {}


def alike(offer: Offer) -> str:
    """What the replicas of a model have in common, besides their scores. Interned: it is compared at each call."""
    model = offer.model
    return intern(f"{model.name}\0{model.version}\0{offer.source.labels.on_prem:d}")


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
    key, kind, off_prem, bit = offer.key, alike(offer), not source.labels.on_prem, loaded_bit(model.name)
    per_input, per_output, quality = price.input_nusd_per_mtok, price.output_nusd_per_mtok, model.quality_milli * 1000
    salt, context = crc32(key.encode()), model.context_length
    per_call = price.call_nusd * PER_CALLS
    later = (kind, salt, arm, priced, per_input, per_output, per_call, 0)
    found = _known[id(offer)] = Facts(
        offer,
        key,
        source.id,
        model.abilities,
        context,
        source.drained or bool(source.engine_state and source.engine_state != EngineState.ready),
        arm,
        bit,
        kind,
        salt,
        (key, kind, bit, context, off_prem, limits.waiting_max, limits.concurrency, later),
        (arm, quality, per_input, per_output, per_call, priced, power.input_uj_per_token, power.output_uj_per_token),
    )
    return found


def _in_units(later: Later, unit: int, number: int) -> Later:
    kind, salt, arm, priced, per_input, per_output, per_call, _ = later
    return kind, salt, arm, priced, per_input // unit, per_output // unit, per_call // unit, number


def _table(worths: tuple[Worth, ...], unit: int) -> Table:
    from interlock.routing.table import Table  # NumPy takes memory and time to start: for whoever has many models

    return Table(worths, unit)


def slate_of(offers: Sequence[Offer]) -> Slate:
    """What these offers have in common. Remembered per tuple of offers: pass the same tuple."""
    found = _slates.get(id(offers))
    if found is not None:
        return found
    facts = tuple(sorted([facts_of(offer) for offer in offers], key=_by_source))
    unit = gcd(*[price for each in facts for price in each.often[-1][4:7]]) or 1
    numbers: dict[Worth, int] = {}
    kinds: dict[str, int] = {}
    kind_of = tuple([kinds.setdefault(each.kind, len(kinds)) for each in facts])
    leads = tuple([kind_of.index(kind) for kind in range(len(kinds))])
    worth_of = tuple([numbers.setdefault(each.worth, len(numbers)) for each in facts])
    made = Slate(
        offers,
        facts,
        tuple(
            [
                (*each.often[:-1], _in_units(each.often[-1], unit, number))
                for each, number in zip(facts, worth_of, strict=True)
            ]
        ),
        tuple(numbers),
        worth_of,
        worth_of if len(numbers) == len(facts) else None,
        tuple([each.source_id for each in facts]),
        tuple([each.key for each in facts]),
        kind_of,
        leads if len(leads) == len(set(zip(kind_of, worth_of, strict=True))) else (),
        packed([each.salt for each in facts]),
        len({each.salt for each in facts}) < len(facts),
        frozenset(facts[0].abilities).intersection(*[each.abilities for each in facts]) if facts else frozenset(),
        min([each.context for each in facts if each.context > 0], default=ANY_LENGTH),
        any(each.resting for each in facts),
        len({each.offer.model.name for each in facts}) < len(facts),
        len({each.source_id for each in facts}) == len(facts),
        (0,) * len(facts),
        _table(tuple(numbers), unit) if len(numbers) >= MANY else None,
        len({each.arm for each in facts}) == len(facts) and all(each.often[-1][3] for each in facts),
    )
    if type(offers) is tuple:  # anything else could change and keep its identity
        if len(_slates) >= SLATES_MAX:
            _slates.clear()
        _slates[id(offers)] = made
    return made
