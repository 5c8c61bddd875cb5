"""The record log of this machine: follow it, and explain a recorded call."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interlock.cli.common import AsJson, Ca, Commands, Home, Url, client_of, settings_of
from interlock.cli.output import put, put_json
from interlock.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from interlock.ledger.reader import CallRecords

ledger_app = Commands(help="The record log and the ledger made of it.", no_args_is_help=True)
route_app = Commands(help="Routing decisions.", no_args_is_help=True)
DIFFERS = 3
"""Exit code when a replay does not give what was recorded."""
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_Since = Annotated[str, typer.Option(help="How far back: 30s, 10m, 2h, 7d; everything when left out.")]


@ledger_app.command()
def tail(
    follow: Annotated[bool, typer.Option("--follow", "-F", help="Go on as records are written.")] = False,
    since: _Since = "",
    content: Annotated[bool, typer.Option("--content", help="Show prompts and answers too.")] = False,
    home: Home = "",
    as_json: AsJson = False,
) -> None:
    """Print the records of this machine's log, oldest first; payloads only when asked for."""
    from interlock.ledger.reader import tail as records
    from interlock.ledger.render import as_dict, as_line
    from interlock.types.record import Alive

    since_ns = time.time_ns() - seconds(since) * 1_000_000_000 if since else 0
    for record in records(_folder(home), follow=follow, since_ns=since_ns):
        if isinstance(record.stored.record, Alive):
            continue
        if as_json:
            put(json.dumps(as_dict(record, content=content), ensure_ascii=False))
        else:
            put(as_line(record, content=content))
        if follow:
            sys.stdout.flush()


@route_app.command()
def explain(
    request_id: Annotated[str, typer.Argument(help="Id from the x-interlock-request-id header.")],
    home: Home = "",
    as_json: AsJson = False,
) -> None:
    """Say why a recorded call went where it went, and why every other source was left out."""
    import msgspec

    from interlock.routing.explain import explain_call

    call = _call(home, request_id)
    if call.intent is None:
        words = call.refusal.words if call.refusal is not None else "its intent is not in the log"
        if as_json:
            put_json({"request_id": request_id, "state": call.state, "refused": words})
        else:
            put(f"{request_id} went nowhere: {words}")
        return
    told = explain_call(call.intent, [stored.record for stored in call.stored], _source_names(home))
    if as_json:
        put_json({"request_id": request_id, "state": call.state, **msgspec.to_builtins(told)})
        return
    put(f"{request_id} ({call.state})", *told.lines())


@route_app.command()
def replay(
    request_id: Annotated[str, typer.Argument(help="Id from the x-interlock-request-id header.")],
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Decide a recorded call again, by policy and route, and say whether it comes out the same. Exit code 3 if not."""
    import base64

    import msgspec

    call = _call(home, request_id)
    record = call.intent or call.refusal
    if record is None:
        raise NotFound(f"the log of this machine has lost the intent of {request_id}", code="record_gone")
    if call.intent is not None:  # payloads decide nothing, and stay on this machine
        record = msgspec.structs.replace(call.intent, body=b"", parameters={})
    encoded = base64.b64encode(msgspec.msgpack.encode(record)).decode()
    show_replay(request_id, client_of(home, url, ca).call("POST", "/replay", {"record": encoded}), as_json)


def show_replay(request_id: str, told: dict[str, Any], as_json: bool) -> None:
    """Print how a replay came out, and end with `DIFFERS` when it did not come out the same."""
    if as_json:
        put_json({"request_id": request_id, **told})
    else:
        how = "the same" if told["same"] else "differently"
        put(f"{request_id} was decided {how} on snapshot {told['snapshot_version']}: {', '.join(told['decided'])}.")
        put(*(f"{d['stage']}: {d['words']}" for d in told["differences"]))
    if not told["same"]:
        raise typer.Exit(DIFFERS)


def _call(home: str, request_id: str) -> CallRecords:
    """A call of this machine's log. Raises BadRequest for what is no request id, NotFound."""
    from interlock.ledger.reader import find_call
    from interlock.types.record import parse_request_id

    try:
        parse_request_id(request_id)
    except ValueError:
        raise BadRequest(f"{request_id!r} is not a request id, such as req_01h2xcejqtf2nbrexx3vqjhp41_1f") from None
    call = find_call(_folder(home), request_id)
    if call is None:
        raise NotFound(f"the log of this machine has no call {request_id}", param="request_id")
    return call


def seconds(text: str) -> int:
    """Seconds of "30s", "10m", "2h" or "7d". Raises BadRequest for anything else."""
    number, unit = text[:-1], text[-1:]
    if not number.isdigit() or unit not in _UNITS_S:
        raise BadRequest(f"--since {text!r}: a number and s, m, h or d, such as 10m", param="since")
    return int(number) * _UNITS_S[unit]


def _source_names(home: str) -> dict[str, str]:
    """Names of sources by id, from the snapshot that this machine's node has stored; none when it has none."""
    from interlock.errors import SnapshotError
    from interlock.gateway.snapshot_folder import SnapshotFolder

    path = settings_of(home).home_path("node", "snapshot")
    try:
        view = SnapshotFolder(path, deltas_max=1).load(2) if path.is_dir() else None
    except (OSError, SnapshotError):
        return {}
    return {source.id: source.name for source in view.sources} if view is not None else {}


def _folder(home: str) -> Path:
    return settings_of(home).home_path("node", "log")
