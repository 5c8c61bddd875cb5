"""A recorded call decided again, from its record and the snapshot version that the record names (P4).

What a name stood for, what policy allowed and in which order it was tried are each a pure function of what is recorded
and of that version's small parts, which are never removed. Nothing that is stored now is looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from interlock.errors import BadRequest, ModelNotFound, NotFound, SnapshotError
from interlock.metering.cost import bound_nusd
from interlock.policy.engine import PolicyEngine
from interlock.policy.trial import Trials
from interlock.routing.canary import UNDRAWN
from interlock.routing.catalog import Catalog, offers_of
from interlock.routing.replay import replay as replay_route
from interlock.routing.resolve import CASCADING, resolve
from interlock.storage import snapshots
from interlock.types.decision import Reason
from interlock.types.identity import Caller, Principal, PrincipalKind, Team, Tenant
from interlock.types.learned import Estimates, Weights, weights_part
from interlock.types.record import Intent, Party, Refusal
from interlock.types.snapshot import FORMAT, Alias, Head, PolicyText, Trial
from interlock.types.source import Source

_RULINGS_KEPT = 16
_T = TypeVar("_T")

Decided = Intent | Refusal
_decoder: msgspec.msgpack.Decoder[Decided] = msgspec.msgpack.Decoder(Decided)


class Difference(msgspec.Struct, frozen=True):
    """One way in which a record and its replay differ. `stage`: "snapshot", "resolve", "policy" or "route"."""

    stage: str
    words: str


class Replayed(msgspec.Struct, frozen=True):
    """How a replay came out. `decided`: the stages that were decided again, in order."""

    same: bool
    snapshot_version: int
    decided: tuple[str, ...]
    differences: tuple[Difference, ...]


_DECIDING = frozenset(("tenants", "teams", "sources", "policies", "aliases"))
"""Parts that decisions depend on."""


class Past(msgspec.Struct, frozen=True):
    """What a past snapshot version said, as far as decisions depend on it."""

    head: Head
    tenants: tuple[Tenant, ...]
    teams: tuple[Team, ...]
    sources: tuple[Source, ...]
    policies: tuple[PolicyText, ...]
    aliases: tuple[Alias, ...]
    trials: tuple[Trial, ...] = ()
    weights: Weights | None = None
    """What the router had learned of the tenant's traffic."""


def read(encoded: bytes) -> Decided:
    """The record of a call, as the log has it. Raises BadRequest when it is none, or holds too little to decide on."""
    try:
        record = _decoder.decode(encoded)
    except msgspec.MsgspecError as e:
        raise BadRequest(f"this is not the record of a call: {e}", param="record") from None
    return decidable(record)


def decidable(record: Decided) -> Decided:
    """The record itself. Raises BadRequest (`nothing_to_replay`) when it holds too little to decide on."""
    if record.features is None or record.target is None:
        raise BadRequest(
            "nothing was decided on this call: it was refused before its model was known", code="nothing_to_replay"
        )
    if not record.parties:
        raise BadRequest("the record does not say who called", code="nothing_to_replay")
    return record


def past(conn: Any, version: int, tenant_id: str) -> Past:
    """A snapshot version from the database, as far as it concerns a tenant. Raises NotFound (code `snapshot_gone`) or,
    when it cannot be trusted or read, SnapshotError."""
    head = snapshots.head_of(conn, version)
    if head is None:
        raise NotFound(
            f"snapshot {version}, which the record names, is not in this database", code="snapshot_gone", param="record"
        )
    if head.format != FORMAT:
        raise SnapshotError(f"snapshot {version} has format {head.format}, this version reads {FORMAT}")
    bodies = {}
    for part in snapshots.small_parts(conn, version):
        if hashlib.sha256(part.body).digest() != part.sha256:
            raise SnapshotError(f"part {part.name} of snapshot {version} does not have its hash")
        bodies[part.name] = part.body
    gone = sorted(_DECIDING - set(bodies))
    if gone:
        raise NotFound(f"snapshot {version} has lost its part {gone[0]}", code="snapshot_gone", param="record")
    learned = snapshots.part_in(conn, weights_part(tenant_id), version)
    if learned is not None and hashlib.sha256(learned.body).digest() != learned.sha256:
        raise SnapshotError(f"part {learned.name} of snapshot {version} does not have its hash")
    return Past(
        head,
        _list(bodies["tenants"], Tenant),
        _list(bodies["teams"], Team),
        _list(bodies["sources"], Source),
        _list(bodies["policies"], PolicyText),
        _list(bodies["aliases"], Alias),
        _list(bodies["trials"], Trial) if "trials" in bodies else (),
        msgspec.msgpack.decode(learned.body, type=Weights | None) if learned is not None else None,
    )


def replay(record: Decided, then: Past) -> Replayed:
    """Decide a record that `read` gave again, on what the snapshot said then."""
    catalog = Catalog(record.tenant_id, offers_of(then.sources), then.aliases)
    differences = [Difference("snapshot", words) for words in _snapshot(record, then)]
    differences += [Difference("resolve", words) for words in _resolve(record, catalog)]
    differences += [Difference("policy", words) for words in _policy(record, then, catalog)]
    decided = ["resolve", "policy"]
    if record.route is not None:
        decided.append("route")
        again = replay_route(record, catalog.by_key, _estimates(record, then))
        differences += [Difference("route", words) for words in again.differences]
    return Replayed(not differences, then.head.version, tuple(decided), tuple(differences))


def _snapshot(record: Decided, then: Past) -> Iterable[str]:
    if record.snapshot_root != then.head.root:
        yield (
            f"the record names snapshot {record.snapshot_version} with root {record.snapshot_root.hex() or 'none'},"
            f" its root is {then.head.root.hex()}"
        )
    used = record.route.router_version if record.route is not None else 0
    version = then.weights.version if then.weights is not None else 0
    if used and used != version:
        yield f"what was learned was used in version {used}, that snapshot has version {version or 'none'}"


def _estimates(record: Decided, then: Past) -> Estimates | None:
    """What was expected of each model, from the signals recorded; None where nothing learned was used."""
    assert record.features is not None and record.route is not None  # noqa: S101 - `read`
    if not record.route.router_version or then.weights is None:
        return None
    from interlock.learning.published import Expectations  # numpy: only where there is something learned

    return Expectations(then.weights).estimates(record.features.signals, int(record.features.data_class))


def _resolve(record: Decided, catalog: Catalog) -> Iterable[str]:
    features, recorded = record.features, record.target
    assert features is not None and recorded is not None  # noqa: S101 - `read`
    seed = record.route.seed if record.route is not None else _seed(record)
    try:
        target = resolve(
            features.asked,
            catalog,
            now_s=record.wall_ns // 1_000_000_000,
            seed=seed,
            principal_id=record.principal_id,
            canary_state=recorded.canary if recorded.canary in UNDRAWN else "",
            cascading=features.operation in CASCADING,
        )
    except ModelNotFound as e:
        yield e.message
        return
    # a request may name a mode of its own, which is in the target and not in the features; no weights hold against that
    named = msgspec.structs.replace(target, mode=recorded.mode, weights=recorded.weights and target.weights)
    if named != recorded:
        yield f"{features.asked!r} stood for {_said(recorded)}, now it stands for {_said(target)}"


def _seed(record: Decided) -> int:
    return record.seed if isinstance(record, Refusal) else 0


def _policy(record: Decided, then: Past, catalog: Catalog) -> Iterable[str]:
    features, target = record.features, record.target
    assert features is not None and target is not None  # noqa: S101 - `read`

    def engine(policies: Sequence[PolicyText]) -> PolicyEngine:
        return PolicyEngine(policies, then.tenants, then.teams, then.sources, _RULINGS_KEPT, bound=bound_nusd)

    caller, offers = caller_of(record), catalog.offers_for(target)
    again = engine(then.policies).authorize(caller, features, offers, record.wall_ns)
    yield from _compare("permitted", record.permits, again.permits)
    if isinstance(record, Refusal):
        yield from _compare("denied", _denials(record), again.denials)
    if record.trials:
        tried = Trials(then.trials, then.policies, engine).tried(caller, features, offers, again, record.wall_ns)
        if tried != record.trials:
            yield "what policies that only report would have made of it was recorded otherwise"


def _denials(record: Refusal) -> tuple[Reason, ...]:
    """The denials of policy among a refusal's reasons: they come first, before those of the route."""
    routed = len(record.route.rejected) if record.route is not None else 0
    return record.reasons[: len(record.reasons) - routed]


def _compare(what: str, recorded: Iterable[Reason], again: Iterable[Reason]) -> Iterable[str]:
    before = {reason.offer: reason for reason in recorded}
    after = {reason.offer: reason for reason in again}
    for offer in sorted(before.keys() | after.keys()):
        was, now = before.get(offer), after.get(offer)
        if was is None and now is not None:
            yield f"{offer} was not {what}, now it is: {now.words}"
        elif now is None and was is not None:
            yield f"{offer} was {what} ({was.words}), now it is not"
        elif was != now and was is not None and now is not None:
            yield f"{offer} was {what} because {was.words}, now because {now.words}"


def caller_of(record: Decided) -> Caller:
    """Who called, as policy saw it then. The record is one that `decidable` gave."""
    assert record.features is not None  # noqa: S101 - `read`
    who, *for_whom = (_principal(record.tenant_id, party) for party in record.parties)
    return Caller(
        principal=who,
        auth_method=record.auth_method,
        credential_id=record.credential_id,
        scopes=(),
        data_class=record.features.data_class,
        delegator=for_whom[0] if for_whom else None,
    )


def _principal(tenant_id: str, party: Party) -> Principal:
    try:
        kind = PrincipalKind(party.kind)
    except ValueError:
        raise BadRequest(f"the record names a principal of the unknown kind {party.kind!r}", param="record") from None
    return Principal(id=party.id, tenant_id=tenant_id, kind=kind, name=party.name, team_ids=party.team_ids)


def _said(target: Any) -> str:
    fields = ((name, getattr(target, name)) for name in target.__struct_fields__)
    return " ".join(f"{name}={value}" for name, value in fields if value)


def _list(body: bytes, kind: type[_T]) -> tuple[_T, ...]:
    return msgspec.msgpack.decode(body, type=tuple[kind, ...])  # type: ignore[valid-type]
