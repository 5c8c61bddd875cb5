"""Rules for the tree that no other tool checks: file and function sizes, addresses that must not be committed.

Each rule names what it found and where; exit status 1 when anything was found.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
REGISTRY = re.compile(r"pypi\.org|pythonhosted|registry\.npmjs|registry\.yarnpkg|crates\.io", re.IGNORECASE)
FORBIDDEN_CALLS = {"eval", "exec", "pickle", "marshal"}


def tracked() -> list[Path]:
    """Files git knows of or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


@functools.lru_cache(maxsize=1)
def nodes(text: str) -> list[ast.AST]:
    """Everything in the syntax tree of a file, for all rules about it."""
    return list(ast.walk(ast.parse(text)))


def sizes(path: Path, text: str) -> list[str]:
    """Files and functions that are too long to be read in one go."""
    found = []
    lines = text.count("\n")
    if lines > FILE_LINES_MAX:
        found.append(f"{path.relative_to(ROOT)}: {lines} lines, at most {FILE_LINES_MAX}")
    for node in nodes(text):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines")
    return found


def dangerous(path: Path, text: str) -> list[str]:
    """Calls that turn data into code, and shells."""
    found = []
    for node in nodes(text):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
            found.extend(f"{path.relative_to(ROOT)}:{node.lineno}: imports {n}" for n in names & {"pickle", "marshal"})
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}: calls {node.func.id}")
        for keyword in node.keywords:
            if keyword.arg == "shell" and isinstance(keyword.value, ast.Constant) and keyword.value.value:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: shell=True")  # noqa: PERF401
    return found


def main() -> int:
    """Check the tree; print what breaks a rule."""
    found: list[str] = []
    for path in tracked():
        if path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found.extend(
            f"{path.relative_to(ROOT)}:{number}: names a package registry"
            for number, line in enumerate(text.splitlines(), 1)
            if REGISTRY.search(line)
        )
        if path.suffix == ".py" and path.is_relative_to(ROOT / "src"):
            found.extend(sizes(path, text))
            found.extend(dangerous(path, text))
    print("\n".join(found) if found else "tree: in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
