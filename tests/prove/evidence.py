"""The evidence of a proof: one JSON file that says what was run, on which state of the code, and what was found."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def commit(root: Path = ROOT) -> str:
    """The commit that is checked out, as git's own files name it; "" outside a checkout."""
    git = root / ".git"
    try:
        if git.is_file():  # one of several worktrees: its own HEAD, the branches of all
            git = root / git.read_text().strip().removeprefix("gitdir: ")
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        shared = git / "commondir"
        if shared.exists():
            git = git / shared.read_text().strip()
        if (git / name).exists():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")
    except OSError:
        return ""


def source_sha256() -> str:
    """SHA-256 over the code that ran (`src` and `tests/prove`): it names changes that no commit holds yet."""
    digest = hashlib.sha256()
    for folder in ("src", "tests/prove"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def write(folder: Path, proof: str, found: dict[str, Any], source: str) -> Path:
    """Write the evidence of one proof; returns the file. `source`: what `source_sha256` was before it began."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{proof}.json"
    about = {
        "proof": proof,
        "passed": not found["failures"],
        "commit": commit(),
        "source_sha256": source,
        "source_changed_meanwhile": source_sha256() != source,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0)),
        },
    }
    file.write_text(json.dumps({**about, **found}, indent=2) + "\n")
    return file
