"""The files that pages load: our own, and those of npm packages that were brought in when the wheel was built.

Each is served under a name with its digest, so that browsers may keep it for good.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "static"
VENDOR = ("vendor/tabler.min.css", "vendor/htmx.min.js", "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css")
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


class Asset(NamedTuple):
    """One file. `name`: as it is served, with its digest."""

    name: str
    body: bytes
    media_type: str


class Assets:
    """All of them, read once: whatever of ours lies in the folder, and `VENDOR`. `missing`: what the build should have
    brought in."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._by_path: dict[str, Asset] = {}
        self._by_name: dict[str, Asset] = {}
        self.missing: list[str] = []
        own = sorted(file.name for file in folder.iterdir() if file.suffix in _TYPES)
        for path in (*own, *VENDOR):
            file = folder / path
            try:
                body = file.read_bytes()
            except FileNotFoundError:
                self.missing.append(path)
                continue
            stem, _, suffix = file.name.rpartition(".")
            name = f"{stem}-{hashlib.sha256(body).hexdigest()[:16]}.{suffix}"
            self._by_path[path] = self._by_name[name] = Asset(name, body, _TYPES[f".{suffix}"])

    def url(self, path: str) -> str:
        """Where a page loads a file from. A file that is missing leads nowhere; `missing` says so to operators."""
        asset = self._by_path.get(path)
        return f"/console/static/{asset.name if asset is not None else path}"

    def get(self, name: str) -> Asset | None:
        """The file that is served under a name."""
        return self._by_name.get(name)
