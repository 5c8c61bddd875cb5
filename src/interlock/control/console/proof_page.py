"""Verify and export: whether the ledger of a range is whole and unaltered, and a copy of it that proves itself."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from interlock.control.apply import Reason
from interlock.control.console.call_page import ledger_keys
from interlock.control.console.calls import instant_of
from interlock.control.console.exports import Stopped, tar
from interlock.control.console.page import Page
from interlock.control.console.places import chosen
from interlock.control.console.streamed import Streamed, event
from interlock.control.identity import reach_of
from interlock.control.permissions import Action
from interlock.control.services import looks
from interlock.control.web import Json
from interlock.errors import BadRequest, InterlockError
from interlock.ledger.proof.note import VerifierKey
from interlock.ledger.proof.verify import verify_export
from interlock.storage import ledger_read

if TYPE_CHECKING:
    from pathlib import Path

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit
    from interlock.ledger.proof.findings import Report

PROBLEMS_SHOWN = 20
STEPS = ("reading the ledger", "checking it")
_SECOND = "%Y-%m-%dT%H:%M:%S"


class Asked(NamedTuple):
    """Of which tenant and which range, in Unix nanoseconds."""

    tenant: str
    tenant_id: str
    from_ns: int
    to_ns: int


def page(visit: Visit, _: Sessions) -> Response:
    """The form, with the last day filled in."""
    return _page(visit)


def _page(visit: Visit, error: InterlockError | None = None) -> Response:
    tenant, names = chosen(visit, Action.ledger_read)
    api = visit.api
    tenant_id = looks.allowed_tenant(api.store, visit.who(), tenant, Action.ledger_read)
    now = api.tools.now()
    with api.store.tenant(tenant_id) as conn:
        newest = ledger_read.latest_checkpoint(conn, tenant_id)
    complete = datetime.datetime.fromtimestamp(newest.complete_ns / 1e9, datetime.UTC) if newest else None
    given = {
        "from": visit.form.get("from", "") or (now - datetime.timedelta(days=1)).strftime(_SECOND),
        "to": visit.form.get("to", "") or (complete or now).strftime(_SECOND),
        "reason": visit.form.get("reason", ""),
    }
    return visit.page(
        "ledger_proof.html",
        error.status if error is not None else 200,
        error=error,
        tenant=tenant,
        tenants=names,
        given=given,
        complete=complete,
        newest=newest,
        may_read=visit.may(Action.ledger_content, reach_of(tenant_id)),
    )


def export(visit: Visit, sessions: Sessions) -> Response:
    """The download: made first, so that what fails is told on the page, then sent piece by piece and removed."""
    held = contextlib.ExitStack()
    try:
        payloads = bool(visit.form.get("payloads"))
        asked = _asked(visit, Action.ledger_content if payloads else Action.ledger_read)
        what: dict[str, object] = {"from_ns": asked.from_ns, "to_ns": asked.to_ns}
        if payloads:
            what["payloads"] = True
        folder = held.enter_context(sessions.exports.turn(visit.who().principal_id))
        reason = Reason(visit.form.get("reason", "").strip())
        api, actor = visit.api, visit.who()
        looks.note(api.store, api.tools, actor, asked.tenant_id, "ledger.export", "", what, reason, reason_needed=True)
        keys = ledger_keys(visit) if payloads else None
        sessions.exports.make(folder, asked.tenant_id, (asked.from_ns, asked.to_ns), keys)
    except InterlockError as e:
        held.close()
        return _page(visit, e)
    except BaseException:
        held.close()
        raise
    slug = "".join(c if c.isalnum() and c.isascii() else "-" for c in asked.tenant)
    name = f"ledger-{slug}-{asked.from_ns // 1_000_000_000}-{asked.to_ns // 1_000_000_000}"
    return Download(folder, name, held)


class Download(StreamingResponse):
    """A folder as a tar archive. However it ends, `held` is let go of, and with it the folder."""

    def __init__(self, folder: Path, name: str, held: contextlib.ExitStack) -> None:
        headers = {"content-disposition": f'attachment; filename="{name}.tar"'}
        super().__init__(tar(folder, name), media_type="application/x-tar", headers=headers)
        self._held = held

    async def __call__(self, *scope: Any) -> None:
        """Send it."""
        try:
            await super().__call__(*scope)
        finally:
            await run_in_threadpool(self._held.close)


async def verify(visit: Visit, sessions: Sessions) -> Response:
    """The proof as events: "progress" with step, done and total, then "verdict", or "problem" with words."""

    def ready() -> tuple[Asked, contextlib.ExitStack, Path]:
        asked = _asked(visit, Action.ledger_read)
        held = contextlib.ExitStack()
        folder = held.enter_context(sessions.exports.turn(visit.who().principal_id))
        what: dict[str, object] = {"from_ns": asked.from_ns, "to_ns": asked.to_ns}
        api = visit.api
        looks.note(api.store, api.tools, visit.who(), asked.tenant_id, "ledger.verify", "", what, Reason(""))
        return asked, held, folder

    try:
        asked, held, folder = await run_in_threadpool(ready)
    except InterlockError as e:
        return Json({"problem": e.message}, e.status)
    left = threading.Event()
    return Streamed(_events(visit, sessions, asked, folder, left, held), left.set)


async def _events(
    visit: Visit, sessions: Sessions, asked: Asked, folder: Path, left: threading.Event, held: contextlib.ExitStack
) -> AsyncIterator[bytes]:
    """`left` is set when nobody waits any more; the thread ends itself then, and lets go of `held`."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(item: bytes | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and whoever waited with it
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        try:
            with held:
                report = _verified(visit, sessions, asked, folder, left, put)
            put(event("verdict", _told(report)))
        except InterlockError as e:
            put(event("problem", {"words": e.message}))
        finally:
            put(None)

    running = asyncio.create_task(run_in_threadpool(work))
    try:
        while (item := await queue.get()) is not None:
            yield item
    finally:
        left.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(running)


def _verified(visit: Visit, sessions: Sessions, asked: Asked, folder: Path, left: threading.Event, put: Any) -> Report:
    said = [0.0]

    def say(step: int, done: int, total: int) -> None:
        if left.is_set():
            raise Stopped("stopped")
        now = visit.api.tools.clock.mono_ns() / 1e9
        if now - said[0] >= 0.2 or done >= total:
            said[0] = now
            put(event("progress", {"step": STEPS[step], "done": done, "total": total}))

    made = folder / "export"
    range_ns = (asked.from_ns, asked.to_ns)
    sessions.exports.make(made, asked.tenant_id, range_ns, say=lambda done, total: say(0, done, total))
    with visit.api.store.platform() as conn:
        key = VerifierKey.parse(visit.api.keyring.public(conn)[0])
    return verify_export(made, [key], progress=lambda done, total: say(1, done, total))


def _told(report: Report) -> dict[str, Any]:
    until = datetime.datetime.fromtimestamp(report.until / 1e9, datetime.UTC).isoformat() if report.until else ""
    return {
        "verdict": report.verdict,
        "words": report.words,
        "problems": report.problems[:PROBLEMS_SHOWN],
        "entries": report.entries,
        "in_range": report.in_range,
        "until": until,
        "keys": [met.key for met in report.keys],
    }


def _asked(visit: Visit, action: Action) -> Asked:
    """Raises Denied, NotFound, BadRequest."""
    tenant, _ = chosen(visit, Action.ledger_read)
    tenant_id = looks.allowed_tenant(visit.api.store, visit.who(), tenant, action)
    from_ns, to_ns = (instant_of(visit.form.get(name, ""), name) for name in ("from", "to"))
    if not 0 <= from_ns < to_ns:
        raise BadRequest("From must be before to.", param="from")
    return Asked(tenant, tenant_id, from_ns, to_ns)


PAGES = (
    Page("GET", "/calls/proof", page),
    Page("POST", "/calls/export", export),
    Page("POST", "/calls/verify", verify),
)
