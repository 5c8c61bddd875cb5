"""Compile the native part (src/interlock/native) for every machine that it is for, whatever machine this is.

`make assets` calls this, and so does the build of the wheel (hatch_build.py). The compiler is that of the wheel
`ziglang`; nothing is fetched. The same source and compiler give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "interlock" / "native"
STAMP = ".stamp"
TARGETS = {
    "linux-x86_64": ("x86_64-linux-none", "x86_64"),
    "linux-x86_64-sha": ("x86_64-linux-none", "x86_64_v2+bmi+bmi2+lzcnt+sha"),
    "linux-aarch64": ("aarch64-linux-none", "generic"),
    "linux-aarch64-sha2": ("aarch64-linux-none", "generic+sha2"),
}
"""File -> target and processor. The part needs no C library, so a file runs with any. Of x86-64, none uses AVX: the
instructions for SHA-256 stand still when they are mixed with it."""
OPTIONS = ("-dynamic", "-O", "ReleaseSafe", "-fstrip", "-fsingle-threaded")


def compiler_version() -> str | None:
    """Of the wheel; None when it is not installed."""
    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        return None


def wanted(source: Path, compiler: str) -> str:
    """What the stamp says when the files in `lib` are those of this source, these options and this compiler."""
    digest = hashlib.sha256(repr((compiler, OPTIONS, TARGETS)).encode())
    for path in sorted(source.glob("*.zig")):
        data = path.read_bytes()
        digest.update(f"\n{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest() + "\n"


def is_current(source: Path = SOURCE) -> bool:
    """Whether the files are there, and are of this source."""
    stamp, compiler = source / "lib" / STAMP, compiler_version()
    return (
        compiler is not None
        and stamp.exists()
        and stamp.read_text() == wanted(source, compiler)
        and all((source / "lib" / f"{name}.so").exists() for name in TARGETS)
    )


def build(source: Path = SOURCE, only: str = "") -> bool:
    """Compile what is not current. Returns whether anything was done. `only` names one target. Raises SystemExit."""
    if is_current(source):
        return False
    compiler = compiler_version()
    if compiler is None:
        raise SystemExit("native: there is no compiler; install ziglang. Without it, verifying exports takes longer")
    library = source / "lib"
    library.mkdir(exist_ok=True)
    (library / STAMP).unlink(missing_ok=True)
    names = [only] if only else list(TARGETS)
    with tempfile.TemporaryDirectory(prefix="interlock-native-") as scratch, ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _compile(source, Path(scratch) / name, name), names))
        for name in names:
            (Path(scratch) / name / f"{name}.so").replace(library / f"{name}.so")
    if not only:
        (library / STAMP).write_text(wanted(source, compiler))
    return True


def _compile(source: Path, scratch: Path, name: str) -> None:
    scratch.mkdir()
    target, processor = TARGETS[name]
    command = [sys.executable, "-m", "ziglang", "build-lib", *OPTIONS, "-target", target, f"-mcpu={processor}"]
    command += [f"-femit-bin={scratch / name}.so", "--cache-dir", str(scratch), "--global-cache-dir", str(scratch)]
    ran = subprocess.run([*command, "native.zig"], cwd=source, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"native: {name} could not be compiled:\n{ran.stderr}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--try", dest="attempt", action="store_true", help="say what is missing, and go on")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the source")
    parser.add_argument("--only", default="", choices=TARGETS, help="one target")
    given = parser.parse_args()
    try:
        build(given.source, given.only)
    except SystemExit as e:
        if not given.attempt:
            raise
        print(e.code, file=sys.stderr)


if __name__ == "__main__":
    main()
