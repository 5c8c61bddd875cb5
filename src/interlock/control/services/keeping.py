"""What of a tenant's contents is destroyed and what may not be: erasure of a person, legal holds."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from interlock.control.services.base import Names, Tools
from interlock.errors import BadRequest, NotFound
from interlock.storage import changes, erasure, holds
from interlock.storage.changes import Author, Change

if TYPE_CHECKING:
    from interlock.control.apply import Reason
    from interlock.control.identity import Actor
    from interlock.storage.pool import Store


class Done(msgspec.Struct, frozen=True):
    """What was destroyed of whom (an id). `gone_everywhere_at`: until when nodes' logs may hold a copy."""

    subject: str
    keys: int
    contents: int
    gone_everywhere_at: datetime.datetime


class Extent(msgspec.Struct, frozen=True):
    """What an erasure of a subject (an id) would destroy, and the legal holds that forbid it."""

    subject: str
    keys: int
    contents: int
    holds: tuple[holds.Hold, ...]


def id_of(find: Callable[[str, str], str], tenant_id: str, name: str) -> str:
    """The id of a declared thing, or the text itself: callers by token are in no table."""
    if not name:
        return ""
    try:
        return find(tenant_id, name)
    except NotFound:
        return name


def extent(store: Store, tenant_id: str, asked: str) -> Extent:
    """What `erase` would do now; nothing is changed. Raises BadRequest, and NotFound when nothing is kept."""
    _check_subject(asked)
    with store.tenant(tenant_id) as conn:
        subject = id_of(Names(conn).principal, tenant_id, asked)
        names, contents = erasure.extent(conn, tenant_id, subject)
        standing = tuple(
            hold
            for hold in holds.every(conn, tenant_id)
            if hold.released_at is None and hold.subject in (holds.EVERYTHING, subject)
        )
    if not names:
        raise NotFound(f"the ledger keeps no content of {asked!r}", param="subject")
    return Extent(subject, names, contents, standing)


def erase(store: Store, tools: Tools, actor: Actor, tenant_id: str, asked: str, reason: Reason) -> Done:
    """Destroy what is kept of a person (name of a principal, or an id). Whoever calls this has asked for permission.

    Raises BadRequest (also without a reason), NotFound, Conflict while a legal hold is on it.
    """
    _check_subject(asked)
    by = Author(actor.principal_id, actor.name, reason.text, tools.now(), reason.request_id)
    with store.tenant(tenant_id) as conn:
        subject = id_of(Names(conn).principal, tenant_id, asked)
        done = erasure.erase(conn, tenant_id, subject, actor.principal_id, tools.clock.wall_ns())
        what = {"keys": done.keys, "contents": done.contents}
        changes.record(conn, Change(tenant_id, "ledger.erase", "ledger", subject, None, what), by)
    kept = datetime.timedelta(seconds=tools.settings.log_keep_s)
    return Done(subject, done.keys, done.contents, tools.now() + kept)


def hold(store: Store, tools: Tools, actor: Actor, tenant_id: str, asked: str, reason: Reason) -> holds.Hold:
    """Add a legal hold on a person, or on everything (""). Whoever calls this has asked for permission."""
    if not asked.isprintable():
        raise BadRequest("subject is the name of a principal, or an id", param="subject")
    by = Author(actor.principal_id, actor.name, reason.text, tools.now(), reason.request_id)
    with store.tenant(tenant_id) as conn:
        subject = id_of(Names(conn).principal, tenant_id, asked) if asked else holds.EVERYTHING
        made = holds.Hold(tools.new_id("hold"), subject, by.reason, actor.principal_id, by.at)
        after = {"subject": made.subject}
        changes.record(conn, Change(tenant_id, "ledger.hold_add", "hold", made.id, None, after), by)
        holds.add(conn, tenant_id, made)
    return made


def release(store: Store, tools: Tools, actor: Actor, tenant_id: str, hold_id: str, reason: Reason) -> holds.Hold:
    """Release a legal hold. Whoever calls this has asked for permission. Raises NotFound, Conflict."""
    by = Author(actor.principal_id, actor.name, reason.text, tools.now(), reason.request_id)
    with store.tenant(tenant_id) as conn:
        changes.record(conn, Change(tenant_id, "ledger.hold_release", "hold", hold_id, None, None), by)
        return holds.release(conn, tenant_id, hold_id, actor.principal_id, by.at, by.reason)


def _check_subject(asked: str) -> None:
    if not asked or not asked.isprintable():
        raise BadRequest("subject is the name of a principal, or an id", param="subject")
