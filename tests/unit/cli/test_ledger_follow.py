"""A follower of a ledger: nothing lost, nothing twice, whatever it dies in; and what it does not go on with."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.cli.client import Refused
from interlock.cli.follow_files import Lines, Place, StateFile, line_of
from interlock.cli.ledger_follow import PAUSE_S_MAX, Follower, Page, Patience, Source
from interlock.cli.main import main
from interlock.errors import BadRequest, InterlockError, Unavailable
from interlock.ledger.entry import encode_leaf
from interlock.ledger.proof.merkle import leaf_hash
from interlock.types.followed import FollowedEntry


class Died(BaseException):
    """Stands for SIGKILL."""


def entry(position: int, words: str = "", tree: str = "ten_1") -> FollowedEntry:
    leaf = {"tree": tree, "kind": "call", "at": 1_753_000_000_000_000_000 + position, "n": position + 1, "x": words}
    return FollowedEntry(position, leaf_hash(encode_leaf(leaf)).hex(), leaf)


class Ledger:
    """Stands for the admin API: answers of a few entries of a tree that a test lets grow."""

    def __init__(self, size: int = 0, words: str = "", tree: str = "ten_1") -> None:
        self.tree, self.words = tree, words
        self.entries = [entry(position, words, tree) for position in range(size)]
        self.asked: list[int] = []
        self.failures: list[InterlockError] = []

    def grow(self, count: int) -> None:
        self.entries += [entry(len(self.entries) + k, self.words, self.tree) for k in range(count)]

    def call(self, method: str, path: str, *, query: dict[str, Any], why: str) -> Any:
        assert (method, path, why) == ("GET", "/tenants/acme/ledger/follow", "soc")
        if self.failures:
            raise self.failures.pop(0)
        self.asked.append(query["after"])
        items = [e for e in self.entries if e.position > query["after"]][: query["limit"] or 3]
        found = [{"position": e.position, "hash": e.hash, "leaf": json.loads(encode_leaf(e.leaf))} for e in items]
        last = found[-1]["position"] if found else query["after"]
        size = self.entries[-1].position + 1 if self.entries else 0
        return {"tree": self.tree, "items": found, "next": last, "size": size}


def follower(ledger: Any, output: Path, state: Path | None, sleep: Callable[[float], None] | None = None) -> Any:
    lines = Lines(output)
    kept = StateFile(state) if state is not None else None
    out = Follower(Source(ledger, "acme", "soc"), lines, kept, Patience(sleep, lambda _: None))
    return out, lines, kept


def release(lines: Lines, kept: StateFile | None) -> None:
    """What the system does for a process that ends: its locks go."""
    lines.close()
    if kept is not None:
        kept.close()


def run(ledger: Any, output: Path, state: Path | None, first: int | None = None, since_ns: int = 0) -> Any:
    """One life, up to the end of what is there."""
    one, lines, kept = follower(ledger, output, state)
    try:
        one.begin(first, since_ns)
        while not one.step():
            pass
    finally:
        release(lines, kept)
    return one


def positions(output: Path) -> list[int]:
    return [json.loads(line)["position"] for line in output.read_bytes().splitlines()]


def test_a_line_holds_the_leaf_as_it_is_hashed(tmp_path: Path) -> None:
    ledger = Ledger(7, words='{"leaf": "é\\u0000}')
    run(ledger, tmp_path / "out", None)
    lines = (tmp_path / "out").read_bytes().splitlines()
    for position, line in enumerate(lines):
        said = json.loads(line)
        assert list(said) == ["position", "hash", "leaf"] and said["position"] == position
        raw = line.partition(b',"leaf":')[2][:-1]
        assert leaf_hash(raw).hex() == said["hash"] and json.loads(raw) == said["leaf"]
    assert len(lines) == 7


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), with_state=st.booleans())
@example(seed=1, with_state=True)
@example(seed=2, with_state=False)
def test_each_entry_is_in_the_file_once_whatever_it_dies_in(
    tmp_path_factory: pytest.TempPathFactory, seed: int, with_state: bool
) -> None:
    chance = random.Random(seed)
    folder = tmp_path_factory.mktemp("f")
    output, state = folder / "out", folder / "state" if with_state else None
    ledger = Ledger(chance.randrange(4))
    written: list[bytes] = []
    for _ in range(chance.randrange(2, 8)):
        ledger.grow(chance.randrange(6))
        one, lines, kept = follower(ledger, output, state)
        with pytest.MonkeyPatch.context() as patch:
            _die_somewhere(patch, chance)
            try:
                one.begin(None, 0)
                while not one.step():
                    pass
            except Died:
                pass
        release(lines, kept)
        now = output.read_bytes()
        whole = now[: now.rfind(b"\n") + 1]
        assert whole.startswith(b"".join(written)), "what was whole once stays"
        written = whole.splitlines(keepends=True)
        if state is not None and state.exists():
            assert json.loads(state.read_bytes())["position"] < len(written), (
                "the state names no entry that is not there"
            )
    ledger.grow(1)
    run(ledger, output, state)
    assert output.read_bytes() == b"".join(line_of(each) for each in ledger.entries)


def _die_somewhere(patch: pytest.MonkeyPatch, chance: random.Random) -> None:
    """Death at the n-th write, sync or renaming of this life; a write may be torn before."""
    left = chance.randrange(1, 14)
    write, sync, replace = Lines._append, os.fsync, Path.replace

    def counted() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def torn(self: Lines, file: Any, data: bytes) -> None:
        if counted():
            file.seek(0, os.SEEK_END)
            file.write(data[: chance.randrange(len(data) + 1)])
            raise Died
        write(self, file, data)

    def synced(descriptor: int) -> None:
        if counted():
            raise Died
        sync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        before = chance.random() < 0.5
        if counted():
            if not before:
                replace(self, target)
            raise Died
        return replace(self, target)

    patch.setattr(Lines, "_append", torn)
    patch.setattr(os, "fsync", synced)
    patch.setattr(Path, "replace", replaced)


def test_lines_are_on_the_disk_before_the_state_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, int]] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        done.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, os.fstat(descriptor).st_size))

    def replaced(self: Path, target: Path) -> Path:
        done.append((target.name, 0))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    run(Ledger(2), tmp_path / "out", tmp_path / "state")
    names = [name for name, _ in done]
    size = (tmp_path / "out").stat().st_size
    order = [done.index(("out", size)), names.index("state.new"), names.index("state"), len(names) - 1]
    assert order == sorted(order) and names[-1] == tmp_path.name, done


def test_it_begins_where_it_is_told_the_first_time_only(tmp_path: Path) -> None:
    ledger = Ledger(9)
    run(ledger, tmp_path / "a", tmp_path / "state", first=5)
    assert positions(tmp_path / "a") == [5, 6, 7, 8]
    ledger.grow(2)
    run(ledger, tmp_path / "a", tmp_path / "state", first=0)
    assert positions(tmp_path / "a") == [5, 6, 7, 8, 9, 10]
    run(ledger, tmp_path / "b", None, since_ns=1)
    assert positions(tmp_path / "b") == list(range(11))


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    ledger, output = Ledger(4), tmp_path / "out"
    run(ledger, output, None)
    whole = output.read_bytes()
    for cut in (1, 5, len(whole) // 4 - 1):
        output.write_bytes(whole[:-cut])
        run(ledger, output, None)
        assert output.read_bytes() == whole
    output.write_bytes(whole + b"\0" * 100_000)
    run(ledger, output, None)
    assert output.read_bytes() == whole
    output.write_bytes(b"{")
    run(ledger, output, None)
    assert output.read_bytes() == whole


def test_a_file_that_was_rotated_is_left_alone(tmp_path: Path) -> None:
    ledger, output, state = Ledger(4), tmp_path / "out", tmp_path / "state"
    one, lines, kept = follower(ledger, output, state)
    one.begin(None, 0)
    while not one.step():
        pass
    output.rename(tmp_path / "out.1")
    ledger.grow(3)
    while not one.step():
        pass
    release(lines, kept)
    assert (positions(tmp_path / "out.1"), positions(output)) == ([0, 1, 2, 3], [4, 5, 6])
    output.rename(tmp_path / "out.2")
    ledger.grow(1)
    run(ledger, output, state)
    assert positions(output) == [7]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"something else\n", "does not end with a line"), (b'{"position":1}\n', "does not end with a line")],
)
def test_a_file_of_something_else_is_not_touched(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "out").write_bytes(content)
    with pytest.raises(BadRequest, match=words):
        run(Ledger(2), tmp_path / "out", None)
    assert (tmp_path / "out").read_bytes() == content
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(BadRequest, match="is not a state"):
        run(Ledger(2), tmp_path / "new", tmp_path / "state")


def test_two_followers_never_write_to_one_file(tmp_path: Path) -> None:
    _, lines, kept = follower(Ledger(2), tmp_path / "out", tmp_path / "state")
    with pytest.raises(BadRequest, match="another process"):
        Lines(tmp_path / "out")
    with pytest.raises(BadRequest, match="another process"):
        StateFile(tmp_path / "state")
    release(lines, kept)
    run(Ledger(2), tmp_path / "out", tmp_path / "state")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadRequest, match="not an ordinary file"):
        Lines(tmp_path / "pipe")


@pytest.mark.parametrize("keep", ["out", "state"])
def test_another_tenants_ledger_and_another_past_are_noticed(tmp_path: Path, keep: str) -> None:
    output, state = tmp_path / "out", tmp_path / "state"
    run(Ledger(6), output, state)
    (state if keep == "out" else output).unlink()
    before = output.read_bytes() if output.exists() else b""
    for ledger, words in (
        (Ledger(8, tree="ten_2"), "name another --state and --output"),
        (Ledger(5), "an older one, restored"),
        (Ledger(8, words="rewritten"), "an older one, restored"),
    ):
        with pytest.raises(InterlockError, match=words):
            run(ledger, output, state)
    assert (output.read_bytes() if output.exists() else b"") == before
    run(Ledger(7), output, state)
    assert positions(output)[-1] == 6
    other = Place("ten_2", 3, "0" * 64)
    kept = StateFile(state)
    kept.save(other)
    kept.close()
    with pytest.raises(BadRequest, match="another tenant"):
        run(Ledger(7), output, state)


def test_a_database_restored_during_an_outage_is_noticed(tmp_path: Path) -> None:
    ledger = Ledger(6)
    one, lines, kept = follower(ledger, tmp_path / "out", tmp_path / "state", sleep=lambda _: None)
    one.begin(None, 0)
    while not one.step():
        pass
    ledger.entries = Ledger(9, words="rewritten").entries
    ledger.failures = [Unavailable("away")]
    with pytest.raises(InterlockError, match="an older one, restored"):
        one.step()
    release(lines, kept)
    assert positions(tmp_path / "out") == [0, 1, 2, 3, 4, 5]


def test_outages_are_waited_for_with_growing_pauses_and_refusals_are_not(tmp_path: Path) -> None:
    ledger, pauses, said = Ledger(2), list[float](), list[str]()
    ledger.failures = [Unavailable("the admin API cannot be reached")] * 6 + [Refused(503, {"message": "starting"})] * 3
    lines = Lines(tmp_path / "out")
    one = Follower(Source(ledger, "acme", "soc"), lines, None, Patience(pauses.append, said.append))  # type: ignore[arg-type]
    one.begin(None, 0)
    assert one.step() and positions(tmp_path / "out") == [0, 1]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60] and max(pauses) == PAUSE_S_MAX
    assert said == ["the admin API cannot be reached; trying again", "starting; trying again", "going on"]
    for error in (Refused(403, {"message": "no"}), Unavailable("no", code="untrusted_certificate"), BadRequest("no")):
        ledger.failures = [error]
        with pytest.raises(InterlockError):
            one.step()
    assert len(pauses) == 9
    lines.close()


def test_an_entry_that_is_not_what_it_is_said_to_be_is_not_written(tmp_path: Path) -> None:
    good = Ledger(3).call("GET", "/tenants/acme/ledger/follow", query={"after": -1, "limit": 0}, why="soc")
    assert [each.position for each in Page(good).entries] == [0, 1, 2]
    changes: list[Callable[[Any], None]] = [
        lambda page: page["items"][1]["leaf"].update(n=77),
        lambda page: page["items"][1].update(hash="0" * 64),
        lambda page: page["items"].reverse(),
        lambda page: page["items"][2].update(position=3),
        lambda page: page.update(tree="ten_2"),
    ]
    for change in changes:
        page = json.loads(json.dumps(good))
        change(page)
        with pytest.raises(InterlockError, match=r"entry \d"):
            Page(page)


def test_entries_that_were_removed_before_they_were_followed_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(8)
    del ledger.entries[:4]
    run(ledger, tmp_path / "out", None)
    assert positions(tmp_path / "out") == [4, 5, 6, 7]
    assert "entries 0 to 3 are not in the ledger any more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--from", "-1"), "--from"),
        (("--from", "3", "--since", "1h"), "--from"),
        (("--since", "soon"), "--since"),
        (("--interval", "0"), "--interval"),
        (("--interval", "nan"), "--interval"),
        (("--otlp", "http://127.0.0.1:1", "--output", "x"), "--otlp and --output"),
        (("--otlp", "collector:4318"), "http or https URL"),
        (("--otlp", "http://user:secret@127.0.0.1"), "OTEL_EXPORTER_OTLP_HEADERS"),
        (("--output", "same", "--state", "same"), "two files"),
        (("--output", "/nowhere/out"), "No such file"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERLOCK_ADMIN_KEY", "il_nobody")
    code = main(["ledger", "follow", "-t", "acme", "--once", "--url", "http://127.0.0.1:1", *given])
    error = capsys.readouterr().err
    assert code == 1 and words in error and "secret" not in error
