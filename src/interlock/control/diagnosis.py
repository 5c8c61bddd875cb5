"""Facts for `interlock doctor` that only the control process can gather: what is in the database, its settings, and
whether sources answer whoever asks. What to make of them is decided elsewhere, by pure functions.
"""

from __future__ import annotations

import asyncio
import datetime
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from psycopg import Connection

from interlock import __version__
from interlock.control.judge_facts import JudgeFacts, doubted
from interlock.control.services import sources as source_service
from interlock.control.services.base import Names
from interlock.control.web import Api
from interlock.errors import InterlockError
from interlock.identity.jwks import JwksFetcher
from interlock.settings import Settings
from interlock.sources.client import SourceClient
from interlock.sources.credentials import CredentialStore
from interlock.storage import (
    bindings,
    issuers,
    keys,
    learner_status,
    migrate,
    nodes,
    roles,
    snapshots,
    sources,
    tenants,
)
from interlock.storage.sources import SourceRow
from interlock.types.identity import Scope, Tenant
from interlock.types.source import Source

LISTED_MAX = 100
"""Most names of one kind that are told; the numbers are of all."""
_ASKS_AT_ONCE = 8
_ROWS_MAX = 100_000
_USED_DAYS = 30
_REFUSES = (401, 403, 407)
_SAYS_NOTHING = (404, 405, 429, 502, 503, 504)


class NodeFacts(msgspec.Struct, frozen=True):
    """A gateway node. `clock_off_s`: its clock ahead of the database's when it was last heard of; None: unknown."""

    name: str
    version: str
    seen_s_ago: float
    behind: int
    clock_off_s: float | None = None


class SourceFacts(msgspec.Struct, frozen=True):
    """A source. `answers`: to a request without a credential it says "open", "closed", or nothing that tells ("")."""

    name: str
    kind: str
    url: str
    credential: bool
    drained: bool
    error: str
    engine: str
    engine_version: str
    engine_state: str
    models: tuple[str, ...]
    granted_to: tuple[str, ...]
    owner: str = ""
    answers: str = ""
    unused_by: tuple[str, ...] = ()
    """Tenants that it is granted to by name and that have not called it for 30 days."""


class KeyFacts(msgspec.Struct, frozen=True):
    """An active key without an end."""

    tenant: str
    name: str
    admin: bool


class IssuerFacts(msgspec.Struct, frozen=True):
    """An issuer, and why its keys could not be fetched just now."""

    tenant: str
    issuer: str
    error: str


class LagFacts(msgspec.Struct, frozen=True):
    """An epoch of a node whose records the database has up to `behind_s` ago only."""

    node: str
    epoch: str
    behind_s: float


class LearnerFacts(msgspec.Struct, frozen=True):
    """The process that learns, as it told of itself. Counts are since it started."""

    host: str
    seen_s_ago: float
    published: int
    outcomes: int
    entries: int
    behind: int


class ControlFacts(msgspec.Struct, frozen=True):
    """What the control process knows. Times are Unix seconds by the clock that is named."""

    version: str
    schema: str
    schema_wanted: str
    clock_s: float
    database_clock_s: float
    control_host: str
    control_tls: bool
    metrics_key: bool
    snapshot_version: int
    compiler_failure: str
    ledger_failing: bool
    retention_failing: bool
    inbox_rows: int
    ledger_clock_skew_s: float
    nodes: tuple[NodeFacts, ...] = ()
    lags: tuple[LagFacts, ...] = ()
    sources: tuple[SourceFacts, ...] = ()
    keys_without_end: int = 0
    keys: tuple[KeyFacts, ...] = ()
    issuers: tuple[IssuerFacts, ...] = ()
    idle_roles: tuple[str, ...] = ()
    """Administrative roles of principals without a key that could use them."""
    not_recorded: tuple[str, ...] = ()
    """Tenants of whose calls less than everything is kept."""
    learning_tenants: int = 0
    """Tenants that the router learns of."""
    learner: LearnerFacts | None = None
    """None: nothing ever learned."""
    judges: tuple[JudgeFacts, ...] = ()
    """Judges of answers that are asked and not trusted."""


def gather(api: Api) -> ControlFacts:
    """Ask the database, the sources and the issuers. Raises StoreError."""
    settings, tools = api.tools.settings, api.tools
    with api.store.platform() as conn:
        names = Names(conn)
        head = snapshots.head(conn)
        version = head.version if head else 0
        clock_s = tools.clock.wall_ns() / 1e9
        row = conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        database_clock_s = float(row[0]) if row else 0.0
        schema = migrate.current(conn) or ""
        known_nodes = tuple(_node(node, clock_s, version) for node in nodes.page(conn, limit=1000))
        since = tools.now() - datetime.timedelta(days=_USED_DAYS)
        listed = sources.page(conn, limit=settings.sources_max)
        rows = [stored.value for stored in listed]
        lately = {stored.value.name for stored in listed if stored.updated_at > since}
        used = _used(conn, since.date())
        found_keys = _keys(conn, names)
        idle = tuple(sorted(_idle_roles(conn, names, int(clock_s))))
        trusted = issuers.everything(conn)
        owners = {issuer.id: names.of(issuer.tenant_id) for issuer in trusted}
        everyone = tenants.everything(conn)
        less = tuple(t.name for t in everyone if t.recording)
        learner = _learner(learner_status.read(conn), clock_s)
        judges = doubted(conn, everyone, int(clock_s)) if settings.learning != "off" else []
        shown = [
            (row, names.of(row.tenant_id), tuple(names.of(t) for t in row.granted_to), row.name in lately)
            for row in rows
        ]
        roles.take(conn, roles.SEQUENCER)
        lags = tuple(_lags(conn, clock_s))
        inbox = conn.execute("SELECT count(*) FROM interlock.ledger_inbox").fetchone()
    answers = _asked(rows, settings)
    failing = _fetched(api, trusted)
    return ControlFacts(
        version=__version__,
        schema=schema,
        schema_wanted=migrate.HEAD,
        clock_s=clock_s,
        database_clock_s=database_clock_s,
        control_host=settings.control_host,
        control_tls=bool(settings.control_tls_cert_file),
        metrics_key=bool(settings.metrics_key),
        snapshot_version=version,
        compiler_failure=api.compiler.failure,
        ledger_failing=api.sequencer.failing,
        retention_failing=api.retention is not None and api.retention.failing,
        inbox_rows=int(inbox[0]) if inbox else 0,
        ledger_clock_skew_s=settings.ledger_clock_skew_ms / 1000,
        nodes=known_nodes,
        lags=lags,
        sources=tuple(
            _source(row, owner, granted, answers.get(row.name, ""), None if fresh else used)
            for row, owner, granted, fresh in shown
        ),
        keys_without_end=len(found_keys),
        keys=tuple(found_keys[:LISTED_MAX]),
        issuers=tuple(IssuerFacts(owners[i.id], i.issuer, failing.get(i.id, "")) for i in trusted),
        idle_roles=idle[:LISTED_MAX],
        not_recorded=less[:LISTED_MAX],
        learning_tenants=_learning(everyone, settings),
        learner=learner,
        judges=tuple(judges[:LISTED_MAX]),
    )


def _learning(everyone: list[Tenant], settings: Settings) -> int:
    if settings.learning == "off":
        return 0
    return sum(t.active and t.learning != "off" and t.id != tenants.PLATFORM_TENANT for t in everyone)


def _learner(status: learner_status.Status | None, clock_s: float) -> LearnerFacts | None:
    if status is None:
        return None
    seen = round(clock_s - status.seen_at.timestamp(), 3)
    return LearnerFacts(status.host, seen, status.published, status.outcomes, status.entries, status.behind)


def _node(node: nodes.Node, clock_s: float, version: int) -> NodeFacts:
    off = None if node.stored_at is None else round((node.seen_at - node.stored_at).total_seconds(), 3)
    heard = node.stored_at or node.seen_at
    return NodeFacts(
        name=node.name,
        version=node.version,
        seen_s_ago=round(clock_s - heard.timestamp(), 3),
        behind=max(0, version - node.snapshot_version),
        clock_off_s=off,
    )


def _source(
    row: SourceRow, owner: str, granted: tuple[str, ...], answers: str, used: set[tuple[str, str]] | None
) -> SourceFacts:
    """`used`: None for one that was changed so lately that nothing can be said of its use."""
    unused = tuple(
        name
        for tenant_id, name in zip(row.granted_to, granted, strict=True)
        if used is not None and tenant_id != "*" and (tenant_id, row.name) not in used
    )
    return SourceFacts(
        name=row.name,
        kind=row.kind.value,
        url=row.base_url,
        credential=row.credential is not None,
        drained=row.drained,
        error=row.discovery_error,
        engine=row.engine,
        engine_version=row.engine_version,
        engine_state=row.engine_state,
        models=tuple(model.name for model in row.models),
        granted_to=granted,
        owner=owner,
        answers=answers,
        unused_by=unused,
    )


def _used(conn: Connection[Any], since: datetime.date) -> set[tuple[str, str]]:
    """(tenant id, source) of calls since a day."""
    query = "SELECT DISTINCT tenant_id, source FROM interlock.ledger_usage WHERE day >= %s AND calls + steps > 0"
    return {(row[0], row[1]) for row in conn.execute(query, (since,))}


def _keys(conn: Connection[Any], names: Names) -> list[KeyFacts]:
    found = []
    for stored in keys.page(conn, limit=_ROWS_MAX):
        key = stored.value
        if not key.revoked and not key.not_after_s:
            found.append(KeyFacts(names.of(key.tenant_id), key.name, Scope.admin.value in key.scopes))
    return sorted(found, key=lambda k: (not k.admin, k.tenant, k.name))


def _idle_roles(conn: Connection[Any], names: Names, now_s: int) -> Iterable[str]:
    able = {
        stored.value.principal_id
        for stored in keys.page(conn, limit=_ROWS_MAX)
        if Scope.admin.value in stored.value.scopes
        and not stored.value.revoked
        and not 0 < stored.value.not_after_s <= now_s
    }
    for stored in bindings.page(conn, limit=_ROWS_MAX):
        binding = stored.value
        if binding.principal_id not in able:
            where = f"in {names.of(binding.tenant_id)}" if binding.tenant_id else "over everything"
            yield f"{names.of(binding.principal_id)}: {binding.role.value} {where}"


def _lags(conn: Connection[Any], clock_s: float) -> Iterable[LagFacts]:
    query = (
        "SELECT node, epoch, watermark_ns FROM interlock.ledger_epochs"
        " WHERE settled IS NULL AND NOT whole AND node <> '(control)' ORDER BY watermark_ns LIMIT %s"
    )
    for node, epoch, watermark_ns in conn.execute(query, (LISTED_MAX,)):
        yield LagFacts(node, epoch, round(clock_s - watermark_ns / 1e9, 3))


def _asked(rows: list[SourceRow], settings: Settings) -> dict[str, str]:
    """What each source says to who has no credential, by name."""
    bare = [source_service.probe(source_service.spec_of(row)) for row in rows]
    with ThreadPoolExecutor(_ASKS_AT_ONCE, thread_name_prefix="doctor") as pool:
        said = pool.map(lambda source: answers_to(source, settings), bare)
        return {row.name: answer for row, answer in zip(rows, said, strict=True)}


def answers_to(source: Source, settings: Settings) -> str:
    """ "open" when the source works for who has no credential, "closed" when it refuses, "" when that cannot be told.

    It is sent a request that no engine takes for work; nothing of any caller is in it.
    """
    anybody = msgspec.structs.replace(source, credential=None)
    try:
        with SourceClient(anybody, settings, CredentialStore(settings)) as client:
            status = client.post("/chat/completions").status
    except InterlockError:
        return ""
    if status in _REFUSES:
        return "closed"
    return "" if status in _SAYS_NOTHING else "open"


def _fetched(api: Api, trusted: list[Any]) -> dict[str, str]:
    """Why the keys of issuers cannot be fetched, by issuer id."""
    if not trusted:
        return {}
    with tempfile.TemporaryDirectory(prefix="interlock-doctor-") as folder:
        fetcher = JwksFetcher(Path(folder), api.tools.settings, api.tools.clock)
        fetcher.update(trusted)
        asyncio.run(fetcher.fetch_due())
        return {status.issuer_id: status.error for status in fetcher.status() if status.error}
