"""What the evidence of a proof says of the code that ran."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.prove.evidence import commit


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=e@example.com")
    ran = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return ran.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_evidence_names_the_commit_in_a_checkout_and_in_a_worktree_of_it(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    assert commit(one) == ""
    git(one, "init", "-q")
    git(one, "commit", "-q", "--allow-empty", "-m", "first")
    git(one, "worktree", "add", "-q", "-b", "other", str(two))
    git(two, "commit", "-q", "--allow-empty", "-m", "second")
    first, second = git(one, "rev-parse", "HEAD"), git(two, "rev-parse", "HEAD")
    assert first != second and (commit(one), commit(two)) == (first, second)
    git(one, "pack-refs", "--all")
    assert (commit(one), commit(two)) == (first, second)
    git(two, "checkout", "-q", "--detach")
    assert commit(two) == second
