"""objectives: what a call asks of where it goes, and what it is to be decided by, in body or headers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from interlock.errors import BadRequest
from interlock.routing.score import normal
from interlock.types.slo import UNASKED, Slo, tighter
from interlock.wire.openai import OwnSlo, OwnWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interlock.gateway.call import Call

SLO, WEIGHTS = b"x-interlock-slo", b"x-interlock-weights"
HEADERS = frozenset((SLO, WEIGHTS))
NUSD_PER_USD = 1_000_000_000
_Own = TypeVar("_Own", bound=msgspec.Struct)
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)
_SLO_FIELDS = ("ttft_ms", "latency_ms", "cost_usd")
_WEIGHT_FIELDS = ("quality", "cost", "latency", "energy")


def objectives(call: Call) -> None:
    """Put objectives and weights into `call.features`, if anything is there. Of objectives in both places the tighter
    ones hold, of weights those in the body. Raises BadRequest naming the field or header."""
    parsed, features, headers = call.parsed, call.features, call.request.headers
    assert parsed is not None and features is not None  # noqa: S101 - stage order
    slo = None if parsed.own.slo is None else slo_of(parsed.own.slo, "interlock.slo")
    header = headers.get(SLO)
    if header is not None:
        slo = tighter(slo, slo_of(_told(header, SLO, _SLO_FIELDS, OwnSlo), SLO.decode()))
    weights = parsed.own.weights
    param, header = "interlock.weights", headers.get(WEIGHTS)
    if weights is None and header is not None:
        param = WEIGHTS.decode()
        weights = _told(header, WEIGHTS, _WEIGHT_FIELDS, OwnWeights)
    if slo is not None or weights is not None:
        own = () if weights is None else weights_of(weights, param)
        call.features = msgspec.structs.replace(features, slo=slo, weights=own)


def slo_of(given: OwnSlo, param: str) -> Slo:
    """Raises BadRequest when nothing is asked for."""
    if given.ttft_ms is None and given.latency_ms is None and given.cost_usd is None:
        raise BadRequest(f"'{param}' needs at least one of ttft_ms, latency_ms, cost_usd.", param=param)
    cost = UNASKED if given.cost_usd is None else round(given.cost_usd * NUSD_PER_USD)
    return Slo(given.ttft_ms or 0, given.latency_ms or 0, cost, given.strict)


def weights_of(given: OwnWeights, param: str) -> tuple[int, ...]:
    """In millionths that add up to one million. Raises BadRequest when all are 0."""
    parts = (given.quality, given.cost, given.latency, given.energy)
    if not any(parts):
        raise BadRequest(f"'{param}' needs at least one weight above 0.", param=param)
    return tuple(normal(*parts))


def _told(header: bytes, name: bytes, fields: Sequence[str], kind: type[_Own]) -> _Own:
    """A header like `ttft_ms=500; strict` as what the body would say."""
    said: dict[str, Any] = {}
    param = name.decode()
    for part in header.decode("latin-1").split(";"):
        field, equals, text = (each.strip() for each in part.partition("="))
        if field == "strict" and not equals and kind is OwnSlo and field not in said:
            said[field] = True
            continue
        if field not in fields or field in said:
            shown = ", ".join(f"{each}=NUMBER" for each in fields)
            raise BadRequest(f"The header {param} is like '{shown}', each once, with ';' between.", param=param)
        if _NUMBER.fullmatch(text) is None:
            raise BadRequest(f"The header {param} needs a number for {field}.", param=param)
        said[field] = float(text) if "." in text else int(text)
    try:
        return msgspec.convert(said, kind)
    except msgspec.ValidationError as e:
        what, _, path = str(e).partition(" - at `$.")
        raise BadRequest(f"The header {param} is wrong at {path.rstrip('`')!r}: {what}.", param=param) from None
