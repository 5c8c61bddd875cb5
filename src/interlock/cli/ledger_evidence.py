"""Evidence: what the ledger has of a document, and whether what was kept of the ledger is proven by its signature."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interlock.cli.common import AsJson, Ca, Home, InTenant, Reason, Url, client_of, reason_or
from interlock.cli.ledger import NOT_COMPLETE, proved, trusted
from interlock.cli.output import put, put_json
from interlock.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator


def evidence(
    tenant: InTenant,
    document: Annotated[str, typer.Option(help="The document, as its callers named it.")],
    batch: Annotated[str, typer.Option(help="Only of this batch.")] = "",
    subject: Annotated[str, typer.Option(help="Only of this person's or service's: name, or id.")] = "",
    content: Annotated[bool, typer.Option("--content", help="What was asked and answered, too.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write all of it, with proofs, to a new file.")] = None,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """From a document to its chunks, the calls and attempts at each, and what came of them. Takes a second grant; the
    look is recorded. Exit code 3 when a chunk is missing or has no answer, or a proof is not there yet."""
    asked = {"document": document, "batch": batch, "subject": subject, "content": content}
    why = reason_or(reason, "ledger evidence")
    view = client_of(home, url, ca).call("POST", f"/tenants/{tenant}/ledger/evidence", asked, reason=why)
    unproved = [call["request"] for call in _calls(view) if not proved(call)]
    if output is not None:
        _keep(output, view)
    if as_json:
        put_json({**view, "unproved": unproved})
    elif output is None:
        _show(view)
        put(*(f"NOT YET proved: {request}" for request in unproved))
    if view["missing"] or view["unanswered"] or view["truncated"] or unproved:
        raise typer.Exit(NOT_COMPLETE)


def check(
    file: Annotated[Path, typer.Argument(help="What `ledger show --json` or `ledger evidence --output` has written.")],
    key: Annotated[list[str] | None, typer.Option("--key", "-k", help="A key you trust, or a file of them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check, offline, that each entry of such a file is in a tree that a key you trust has signed. Exit code 3 when one
    is not."""
    from interlock.ledger.proof.errors import ProofError

    keys = trusted(key or ())
    if not keys:
        raise BadRequest("give the key that you trust", param="key")
    try:
        view = json.loads(file.read_bytes())
        calls = list(_calls(view))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise BadRequest(f"{file} is not what show or evidence writes", param="file") from None
    bad = []
    for call in calls:
        try:
            good = (
                bool(call["entries"]) and proved(call) and all(_signed(call, proof, keys) for proof in call["proofs"])
            )
        except (ProofError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            good = False
        if not good:
            bad.append(str(call.get("request", "?")) if isinstance(call, dict) else "?")
    if as_json:
        put_json({"calls": len(calls), "unproved": bad})
    else:
        put(
            f"{len(calls) - len(bad)} of {len(calls)} calls are proven.",
            *(f"  NOT PROVEN: {each[:100]!r}" for each in bad),
        )
    if bad or not calls:
        raise typer.Exit(NOT_COMPLETE)


def add_to(app: typer.Typer) -> None:
    """The commands of this file."""
    for command in (evidence, check):
        app.command()(command)


def _calls(view: Any) -> Iterator[Any]:
    """The calls of an answer of show, or of evidence."""
    if "parts" not in view:
        yield view
        return
    for part in view["parts"]:
        yield from part["calls"]


def _signed(call: Any, proof: Any, keys: list[Any]) -> bool:
    """Whether a key has signed the tree of a proof, and the entry says that it is of that tree and of this call."""
    from interlock.ledger.proof.checkpoint import parse
    from interlock.ledger.proof.note import open_note

    tree = parse(open_note(proof["checkpoint"], keys)).origin.rpartition("/")[2]
    leaves = [entry["leaf"] for entry in call["entries"] if entry["position"] == proof["position"]]
    return bool(leaves) and all((leaf["tree"], leaf["request"]) == (tree, call["request"]) for leaf in leaves)


def _show(view: dict[str, Any]) -> None:
    for part in view["parts"]:
        name = "no chunk" if part["chunk"] is None else f"chunk {part['chunk']}"
        put(f"{name}: {'answered' if part['answered'] else 'NOT ANSWERED'}")
        for call in part["calls"]:
            leaf = call["entries"][0]["leaf"]
            where = leaf.get("where", {})
            place = (
                f"{where['name']}::{where['model']}, attempts {where['attempts']}" if where.get("name") else "no source"
            )
            put(f"  {call['request']} {leaf['result']['state']} at {place}")
            if call["contents"] is not None:
                put(json.dumps(call["contents"], indent=2, ensure_ascii=False))
    for gap in view["missing"]:
        put(f"MISSING: chunks {gap['first']} to {gap['last']}")
    totals = view["totals"]
    took = f"{totals['prompt_tokens']} + {totals['completion_tokens']} tokens, {totals['nusd']} nUSD, {totals['uj']} uJ"
    put(f"{totals['calls']} calls with {totals['attempts']} attempts, {totals['failures']} failed: {took}")
    if view["truncated"]:
        put("There are more calls than are told: name a batch or a subject.")


def _keep(path: Path, view: dict[str, Any]) -> None:
    """A new file, for its owner alone."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(view, file)
    except OSError as e:
        raise BadRequest(f"{path} cannot be written: {e.strerror}", param="output") from None
