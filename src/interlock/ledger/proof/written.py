"""An export's lines, as the admin API sends them, become a folder that proves itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from interlock.errors import InterlockError
from interlock.ledger.proof.folder import ExportWriter, Manifest


def write_lines(folder: Path, lines: Iterable[tuple[str, Any]]) -> tuple[int, int]:
    """Write (kind, value) pairs, the manifest first, to a new folder: (entries in it, size of the tree at its end).

    Raises InterlockError when they are no export or broke off, ProofError, BadRequest, OSError as `ExportWriter`.
    """
    each = iter(lines)
    nothing: tuple[str, Any] = ("", {})
    kind, first = next(each, nothing)
    if kind != "manifest":
        raise InterlockError("the admin API sent no export")
    head = dict(first)
    keys = head.pop("keys")
    ended, written = False, 0
    with ExportWriter(folder, Manifest.decode(json.dumps(head).encode()), keys) as writer:
        for kind, value in each:
            written += kind == "entry"
            ended = ended or kind == "end"
            _put(writer, kind, value)
        if not ended:
            raise InterlockError(f"the export broke off after {written} entries: {folder} is not whole; export again")
    return written, head["end_size"]


def _put(writer: ExportWriter, kind: str, value: Any) -> None:
    match kind:
        case "start":
            writer.start(value["size"], [bytes.fromhex(each) for each in value["hashes"]], value["counts"])
        case "pruned":
            writer.pruned(value["note"], value["state"].encode())
        case "rotation":
            writer.rotation(value["statement"], value["head"])
        case "settled":
            writer.settled(value.encode())
        case "checkpoint":
            writer.checkpoint(value["note"], value["coverage"].encode())
        case "entry":
            writer.entry(value.encode())
        case "content":
            writer.content(value["id"], base64.b64decode(value["data"]))
            if "salt" in value:
                writer.opened(value["id"], bytes.fromhex(value["salt"]), base64.b64decode(value["plain"]))
        case "list":
            writer.list(value["list"], value["items"])
