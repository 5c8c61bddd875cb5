"""Health: what runs, on which snapshot, and how far the ledger has come."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, NamedTuple

from interlock.control.console.page import Page
from interlock.control.permissions import Action
from interlock.storage import learner_status, ledger_read, nodes, snapshots, sources, tenants

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit
    from interlock.storage.nodes import Node

NODE_SILENT_S = 30
"""A node that was not seen for this long counts as gone: it tells of itself every few seconds."""
LEARNER_SILENT_S = 300
LEDGER_LATE_S = 120
"""A ledger that is complete only up to this long ago is behind."""
SHOWN_MAX = 200


class NodeRow(NamedTuple):
    """A node, how many snapshot versions it is behind, and whether it is silent."""

    node: Node
    behind: int
    silent: bool


class LedgerRow(NamedTuple):
    """A tenant's ledger: entries, and until when it is complete."""

    tenant: str
    entries: int
    complete: datetime.datetime
    late: bool


def page(visit: Visit, _: Sessions) -> Response:
    """Installation-wide parts are for platform roles; others see their tenants' ledgers."""
    api = visit.api
    now = api.tools.now()
    whole = visit.may(Action.snapshot_read)
    with api.store.platform() as conn:
        head = snapshots.head(conn) if whole else None
        rows = nodes.page(conn, limit=SHOWN_MAX) if whole else []
        found = sources.page(conn, limit=SHOWN_MAX) if visit.may(Action.source_read) else []
        learner = learner_status.read(conn) if whole else None
        known = tenants.page(conn, limit=SHOWN_MAX)
        seen = [t.value for t in known if visit.may(Action.ledger_read, t.value.id)]
        ledgers = [(t, ledger_read.latest_checkpoint(conn, t.id)) for t in seen]
    version = head.version if head else 0
    return visit.page(
        "health.html",
        now=now,
        whole=whole,
        version=version,
        compiled=datetime.datetime.fromtimestamp(head.compiled_ns / 1e9, datetime.UTC) if head else None,
        failure=api.compiler.failure if whole else "",
        nodes=[_node(row, version, now) for row in rows],
        sources=[stored.value for stored in found],
        ledgers=[_ledger(t.name, c, now) for t, c in ledgers if c is not None],
        failing=api.sequencer.failing,
        learner=learner,
        learner_silent=learner is not None and (now - learner.seen_at).total_seconds() > LEARNER_SILENT_S,
    )


def _node(row: Node, version: int, now: datetime.datetime) -> NodeRow:
    silent = (now - row.seen_at).total_seconds() > NODE_SILENT_S
    return NodeRow(row, max(0, version - row.snapshot_version), silent)


def _ledger(tenant: str, checkpoint: ledger_read.StoredCheckpoint, now: datetime.datetime) -> LedgerRow:
    complete = datetime.datetime.fromtimestamp(checkpoint.complete_ns / 1e9, datetime.UTC)
    return LedgerRow(tenant, checkpoint.size, complete, (now - complete).total_seconds() > LEDGER_LATE_S)


PAGES = (Page("GET", "/health", page),)
