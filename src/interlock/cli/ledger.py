"""The ledger: search it, show a call with its proof, export a range of it, and verify an export, offline."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interlock.cli.common import AsJson, Ca, Home, InTenant, Reason, Url, client_of, reason_or
from interlock.cli.output import put, put_json
from interlock.cli.records import seconds, show_replay
from interlock.errors import BadRequest

if TYPE_CHECKING:
    from interlock.cli.client import AdminClient

PROCESSES_MAX = 64
SMALL_BYTES = 16 << 20
"""Size of the entries of an export that is verified sooner than processes have started."""
NOT_COMPLETE = 3
"""Exit code of `verify` when an export is not proved complete."""
_Since = Annotated[str, typer.Option(help="How far back: 30s, 10m, 2h, 7d.")]
_From = Annotated[str, typer.Option("--from", help="Begin: 2026-03-01 or 2026-03-01T12:00:00Z (UTC).")]
_To = Annotated[str, typer.Option("--to", help="End, not included; now when left out.")]


def search(
    tenant: InTenant,
    since: _Since = "",
    kind: Annotated[str, typer.Option(help="call, refusal, energy, feedback, erasure or change.")] = "",
    principal: Annotated[str, typer.Option(help="Who called: name, or id.")] = "",
    subject: Annotated[str, typer.Option(help="Whom it was for: name, or id.")] = "",
    team: Annotated[str, typer.Option(help="Name, or id.")] = "",
    model: Annotated[str, typer.Option(help="Model that answered.")] = "",
    alias: Annotated[str, typer.Option(help="Alias that the call went through.")] = "",
    label: Annotated[str, typer.Option("--class", help="Request class.")] = "",
    cost_center: Annotated[str, typer.Option("--cost-center", help="Cost centre of the teams that called.")] = "",
    without: Annotated[str, typer.Option(help="Calls without: alias, class, source or model, or several: a,b.")] = "",
    source: Annotated[str, typer.Option(help="Source that answered.")] = "",
    state: Annotated[str, typer.Option(help="completed, failed, cut, disconnected, refused or interrupted.")] = "",
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """List entries of a tenant's ledger, newest first. The search itself is recorded."""
    since_ns = time.time_ns() - seconds(since) * 1_000_000_000 if since else 0
    query: dict[str, object] = {
        "since_ns": since_ns or "",
        "kind": kind,
        "principal": principal,
        "subject": subject,
        "team": team,
        "model": model,
        "source": source,
        "alias": alias,
        "class": label,
        "cost_center": cost_center,
        "without": without,
        "state": state,
        "limit": limit,
    }
    page = client_of(home, url, ca).call("GET", f"/tenants/{tenant}/ledger/entries", query=query, why=reason)
    if as_json:
        put_json(page)
        return
    for item in page["items"]:
        put(_line(item))


def show(
    request_id: Annotated[str, typer.Argument(help="Id from the x-interlock-request-id header; chg_... of a change.")],
    tenant: InTenant,
    content: Annotated[bool, typer.Option("--content", help="What was asked and answered, too.")] = False,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Show a call as the ledger has it, and check its proof. The look is recorded; contents need a second grant."""
    path = f"/tenants/{tenant}/ledger/calls/{request_id}"
    query: dict[str, object] = {"content": "true"} if content else {}
    why = reason_or(reason, "ledger show --content") if content else reason
    view = client_of(home, url, ca).call("GET", path, query=query, why=why)
    is_proved = proved(view)
    if as_json:
        put_json({**view, "proved": is_proved})
        return
    for entry in view["entries"]:
        put(_line(entry), json.dumps(entry["leaf"], indent=2, ensure_ascii=False))
    put(*(f"Feedback at #{each['position']}: {', '.join(each['counts']) or 'nothing of it'} counts."
          for each in view.get("feedback", ())))  # fmt: skip
    put(*(f"Note: {words}." for words in view["notes"]))
    if view["contents"] is not None:
        put(json.dumps(view["contents"], indent=2, ensure_ascii=False))
    size = _checkpoint(view["proofs"][0]["checkpoint"]).size if view["proofs"] else 0
    put(f"In the tree of {size} entries that the newest checkpoint signs: {'proved' if is_proved else 'NOT YET'}.")


def replay(
    request_id: Annotated[str, typer.Argument(help="Id from the x-interlock-request-id header.")],
    tenant: InTenant,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Decide a call of the ledger again, from its record alone, and say whether it comes out the same. Exit code 3 if
    not."""
    path = f"/tenants/{tenant}/ledger/calls/{request_id}/replay"
    show_replay(request_id, client_of(home, url, ca).call("GET", path, why=reason), as_json)


def erase(
    subject: Annotated[str, typer.Argument(help="Whose contents: name of a principal, or an id.")],
    tenant: InTenant,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Destroy what was asked by and answered to a person, for good. Entries and proofs stay, and one says that."""
    if not yes:
        typer.confirm(f"Destroy every prompt and answer of {subject} in {tenant}? It cannot be undone", abort=True)
    why = reason_or(reason, "ledger erase")
    done = client_of(home, url, ca).call("POST", f"/tenants/{tenant}/ledger/erase", {"subject": subject}, reason=why)
    if as_json:
        put_json(done)
    else:
        put(f"{done['contents']} contents of {done['subject']} are gone; the nodes' logs forget them until"
            f" {done['gone_everywhere_at']}, backups when they expire.")  # fmt: skip


def checkpoint(
    tenant: InTenant,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Print the newest signed checkpoint of a tenant. Keep some: a later export must agree with each."""
    view = client_of(home, url, ca).call("GET", f"/tenants/{tenant}/ledger/checkpoint")
    if as_json:
        put_json(view)
    else:
        sys.stdout.write(view["note"])


def export(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    tenant: InTenant,
    from_: _From,
    to: _To = "",
    payloads: Annotated[bool, typer.Option("--payloads", help="What was asked and answered, too.")] = False,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Write what a tenant's ledger has of a range of time to a folder that proves itself. The export is recorded;
    payloads need a second grant."""
    from_ns, to_ns = range_of(from_, to)
    why = reason_or(reason, "ledger export")
    written, size = write_export(client_of(home, url, ca), folder, tenant, from_ns, to_ns, why, payloads=payloads)
    if as_json:
        put_json({"folder": str(folder), "entries": written, "size": size})
    else:
        put(f"{written} entries in {folder}; check it with: interlock ledger verify {folder} --key KEY")


def range_of(from_: str, to: str) -> tuple[int, int]:
    """The instants (Unix ns) of `--from` and `--to`, now for an empty one. Raises BadRequest."""
    from_ns, to_ns = instant(from_), instant(to) if to else time.time_ns()
    if from_ns >= to_ns:
        raise BadRequest("--from must be before --to", param="from")
    return from_ns, to_ns


def write_export(
    client: AdminClient, folder: Path, tenant: str, from_ns: int, to_ns: int, why: str, *, payloads: bool = False
) -> tuple[int, int]:
    """Write an export to a new folder: (entries in it, size of the tree at its end). Raises InterlockError."""
    from interlock.ledger.proof.written import write_lines

    query: dict[str, object] = {"from_ns": from_ns, "to_ns": to_ns}
    if payloads:
        query["payloads"] = "true"
    return write_lines(folder, client.lines(f"/tenants/{tenant}/ledger/export", reason=why, query=query))


def verify(
    folder: Annotated[Path, typer.Argument(help="An export.")],
    key: Annotated[list[str] | None, typer.Option("--key", "-k", help="A key you trust, or a file of them.")] = None,
    seen: Annotated[list[Path] | None, typer.Option("--seen", help="A checkpoint you kept: it must agree.")] = None,
    receipt: Annotated[
        list[Path] | None, typer.Option("--receipt", help="Receipts, one a line: is each call here?")
    ] = None,
    processes: Annotated[int, typer.Option(min=0, max=PROCESSES_MAX, help="How many; 0: as many as help.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check an export by what is in its folder alone. Exit code 0: complete, and each receipt's call is there; 3: not,
    and the verdict says why."""
    import msgspec

    from interlock.ledger.proof.verify import verify_export

    if not folder.is_dir():
        raise BadRequest(f"{folder} is not a folder", param="folder")
    notes = [_text(path) for path in seen or ()]
    held = [each for path in receipt or () for each in _receipts(path)]
    shown = None if as_json else progress()
    many = processes or _helpful(folder)
    report = verify_export(folder, trusted(key or ()), seen=notes, receipts=held, progress=shown, processes=many)
    if as_json:
        put_json(msgspec.to_builtins(report))
    else:
        put(f"{report.verdict.upper()}: {report.words}", *(f"  {problem}" for problem in report.problems))
        for met in report.keys:
            put(f"  signed by {met.key}{'' if met.replaced is None else ' (replaced since)'}")
        put(*(f"receipt of {each.request}: {each.verdict.upper()}: {each.words}" for each in report.receipts))
    if report.verdict != "complete" or any(each.verdict != "recorded" for each in report.receipts):
        raise typer.Exit(NOT_COMPLETE)


def _helpful(folder: Path) -> int:
    """How many processes verify an export soonest: one for each core, but for a small one just this."""
    from interlock.ledger.proof.folder import ENTRIES

    try:
        size = (folder / ENTRIES).lstat().st_size
    except OSError:
        return 1
    return min(len(os.sched_getaffinity(0)), PROCESSES_MAX) if size > SMALL_BYTES else 1


def receipt(
    file: Annotated[Path, typer.Argument(help="A receipt, from the x-interlock-receipt header.")],
    body: Annotated[Path | None, typer.Option(help="The request body, byte for byte: is it the one?")] = None,
    answer: Annotated[Path | None, typer.Option(help="The answer's body, byte for byte: is it the one?")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a receipt says, and hold a request and an answer against it; whether it is genuine, `verify --receipt`
    says. Exit code 3 when it is of others."""
    import msgspec

    from interlock.ledger.proof.errors import ProofError

    given = _receipts(file)
    if len(given) != 1:
        raise BadRequest(f"{file} holds {len(given)} receipts; give one", param="file")
    same = None
    if body is not None or answer is not None:
        texts = [None if path is None else _bytes(path) for path in (body, answer)]
        try:
            same = given[0].is_of(body=texts[0], answer=texts[1])
        except ProofError as e:
            raise BadRequest(f"{file}: {e}") from None
    said = msgspec.to_builtins(given[0].receipt)
    if as_json:
        put_json({**said, "same": same})
    else:
        put(*(f"{name} {value}" for name, value in said.items()))
        if same is not None:
            put("It is of these." if same else "It is of OTHERS than these.")
    if same is False:
        raise typer.Exit(NOT_COMPLETE)


def audit_changes(
    tenant: InTenant,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Hold the list of changes against the ledger (of the tenant platform: those of the whole installation). Exit code
    3 when a row was changed, removed or added behind its back."""
    view = client_of(home, url, ca).call("GET", f"/tenants/{tenant}/ledger/changes-audit", why=reason)
    if as_json:
        put_json(view)
    else:
        found = f"{view['rows']} changes are as the ledger has them, {view['waiting']} are on their way to it"
        older = f", {view['older']} are from before it had changes" if view["older"] else ""
        put(f"{found}{older}.", *(f"  PROBLEM: {each}" for each in view["problems"]))
    if view["problems"]:
        raise typer.Exit(NOT_COMPLETE)


def rotate_key(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Make a new key that the ledger is signed with from now on. Both keys sign that; exports carry it."""
    if not yes:
        typer.confirm("Replace the key that the ledger is signed with? The old one signs nothing more", abort=True)
    why = reason_or(reason, "ledger rotate-key")
    done = client_of(home, url, ca).call("POST", "/ledger/rotate-key", {}, reason=why)
    if as_json:
        put_json(done)
        return
    put(
        f"{done['trees']} trees are signed by both keys; from now on by {done['new']}",
        "Give auditors this key by a way that they trust, and back it up apart from the database.",
        f"Copy the file {done['file']} beside the signing key of every other machine with a control process:",
        "one that lacks it signs nothing.",
    )


def retire_node(
    node: Annotated[str, typer.Argument(help="Its name: its setting node, else its host name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Give up what a node that never comes back has not shipped. Exports say what may be missing, and wait no more."""
    if not yes:
        typer.confirm(f"Is {node} gone for good? What it had not shipped will never be in the ledger", abort=True)
    why = reason_or(reason, "ledger retire-node")
    done = client_of(home, url, ca).call("POST", "/ledger/retire-node", {"node": node}, reason=why)
    if as_json:
        put_json(done)
        return
    for epoch in done["epochs"]:
        put(f"epoch {epoch['epoch']}: {epoch['entries']} entries arrived; calls after {epoch['lost_after']} are lost")
    put(f"{node} counts as gone since {done['at']}; what it began after {done['unannounced_after']} is lost, too.")


def add_to(app: typer.Typer) -> None:
    """The commands of this file."""
    for command in (
        search,
        show,
        replay,
        erase,
        audit_changes,
        rotate_key,
        retire_node,
        checkpoint,
        export,
        verify,
        receipt,
    ):
        app.command()(command)


def instant(text: str) -> int:
    """Unix nanoseconds of a date or time; UTC unless it says otherwise. Raises BadRequest."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{text!r}: a date or time such as 2026-03-01 or 2026-03-01T12:00:00Z") from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1000


def trusted(given: list[str] | tuple[str, ...]) -> list[Any]:
    """Verifier keys of texts, or of files that hold some. Raises BadRequest."""
    from interlock.ledger.proof.errors import ProofError
    from interlock.ledger.proof.note import VerifierKey

    texts: list[str] = []
    for each in given:
        path = Path(each)
        texts += _text(path).splitlines() if "+" not in each and path.is_file() else [each]
    try:
        return [VerifierKey.parse(text) for text in texts if text.strip()]
    except ProofError as e:
        raise BadRequest(f"--key: {e}", param="key") from None


def _receipts(path: Path) -> list[Any]:
    """The receipts of a file. Raises BadRequest."""
    from interlock.ledger.proof.errors import ProofError
    from interlock.ledger.proof.receipt import read_receipts

    try:
        return read_receipts(_text(path))
    except ProofError as e:
        raise BadRequest(f"{path}: {e}", param="receipt") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise BadRequest(f"{path} cannot be read: {e.strerror or e}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise BadRequest(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}") from None


def progress(what: str = "entries") -> Any:
    """A line on a terminal that says how far a long work is; nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def say(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{done:,} of {total:,} {what}{end}")
        sys.stderr.flush()

    return say


def _checkpoint(note: str) -> Any:
    from interlock.ledger.proof.checkpoint import parse
    from interlock.ledger.proof.note import split_note

    return parse(split_note(note)[0])


def proved(view: dict[str, Any]) -> bool:
    """Whether each entry's proof leads to the root that its checkpoint names (signatures are `verify`'s)."""
    from interlock.ledger.entry import encode_leaf
    from interlock.ledger.proof.merkle import leaf_hash, verify_inclusion

    proofs = {proof["position"]: proof for proof in view["proofs"]}
    for entry in view["entries"]:
        proof = proofs.get(entry["position"])
        if proof is None:
            return False
        signed = _checkpoint(proof["checkpoint"])
        hashes = [bytes.fromhex(each) for each in proof["hashes"]]
        leaf = leaf_hash(encode_leaf(entry["leaf"]))
        if not verify_inclusion(leaf, entry["position"], signed.size, hashes, signed.root):
            return False
    return bool(view["entries"])


def _line(item: dict[str, Any]) -> str:
    leaf = item["leaf"]
    at = datetime.fromtimestamp(leaf["at"] / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    who, where, result = leaf.get("who", {}), leaf.get("where", {}), leaf.get("result", {})
    what = leaf.get("what", {})
    place = f"{where['name']}::{where['model']}" if where.get("name") else what.get("model", "")
    if leaf["kind"] == "change":
        rows = leaf["rows"]
        place = f"{what['operation']} {rows[0]['object']}" if len(rows) == 1 else f"{what['operation']} x{len(rows)}"
    if "feedback" in leaf:
        said = leaf["feedback"]
        score = f"score {said['score_micro'] / 1e6:g}" if "score_micro" in said else ""
        place = " ".join(filter(None, (said.get("thumb", ""), score, "corrected" if said["corrected"] else "")))
    cost = f"{leaf['cost']['nusd']} nUSD" if "cost" in leaf else ""
    words = (at, f"#{item['position']}", leaf["kind"], leaf.get("request", ""), who.get("principal", ""), place)
    return " ".join(str(word) for word in (*words, result.get("state", ""), cost) if word)
