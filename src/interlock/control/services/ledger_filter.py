"""What the ledger is searched by, as it is asked for: the same words, and the same checks, in the admin API and in the
console."""

from __future__ import annotations

from collections.abc import Mapping

from interlock.control.services.base import Names
from interlock.control.services.keeping import id_of
from interlock.errors import BadRequest
from interlock.storage.ledger_read import WITHOUT, Filter

WORDS = (
    *("kind", "team", "principal", "subject", "source", "model", "alias", "class", "cost_center", "state"),
    "without",
)
"""Names of filters whose values are text, as they are asked for."""
CHARS_MAX = 512
"""Longest value: more than any name has that there can be."""


def check(given: Mapping[str, str]) -> None:
    """Raises BadRequest that names the first filter whose value nothing can have, or that there is none of."""
    for name, value in given.items():
        if len(value) > CHARS_MAX or not value.isprintable():
            raise BadRequest(f"{name} is a filter of at most {CHARS_MAX} printable characters", param=name)
    if set(_without(given)) - WITHOUT.keys():
        raise BadRequest(f"without is one or more of {', '.join(WITHOUT)}, with commas between", param="without")


def filter_of(
    names: Names, tenant_id: str, given: Mapping[str, str], since_ns: int, until_ns: int, document: bytes = b""
) -> Filter:
    """The filter that these `WORDS` are; "" and what is absent leave a field open. Teams and principals by name or id.
    Raises BadRequest."""
    check(given)
    return Filter(
        since_ns,
        until_ns,
        given.get("kind", ""),
        id_of(names.team, tenant_id, given.get("team", "")),
        id_of(names.principal, tenant_id, given.get("principal", "")),
        id_of(names.principal, tenant_id, given.get("subject", "")),
        given.get("source", ""),
        given.get("model", ""),
        given.get("state", ""),
        document,
        given.get("alias", ""),
        given.get("class", ""),
        given.get("cost_center", ""),
        _without(given),
    )


def asked(wanted: Filter) -> dict[str, object]:
    """What was looked for, for the record of the look."""
    named = {name: value for name, value in wanted._asdict().items() if value}
    return named | ({"document": wanted.document.hex()} if wanted.document else {})


def _without(given: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in given.get("without", "").split(",") if (name := each.strip())))
