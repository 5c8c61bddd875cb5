"""An export in write-once storage, against a real S3-shaped server with object lock, and back."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from moto.s3.models import S3Backend
from moto.server import ThreadedMotoServer

from interlock.cli import ledger_archive
from interlock.cli.ledger_archive import INDEX, Archived, ArchivedFile, fetch_archive
from interlock.cli.main import main
from interlock.errors import BadRequest, ConfigError, Conflict, InterlockError, Unavailable
from interlock.storage import objects
from interlock.storage.objects import Bucket, Lock, digest_of
from tests.e2e.stack import INTERLOCK, clean_environment, until

from .site import Site

SECRET = "the-secret-of-a-store"


class Shelf:
    """A store with a bucket `worm` that has object lock and one `plain` that has none, and a client of its owner."""

    def __init__(self, port: int, client: Any) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.client = client

    def versions(self, prefix: str = "") -> dict[str, list[str]]:
        """Ids of the versions of each key, the first one first."""
        out: dict[str, list[str]] = {}
        for each in self.client.list_object_versions(Bucket="worm", Prefix=prefix).get("Versions", ()):
            out.setdefault(each["Key"], []).insert(0, each["VersionId"])
        return out

    def kill(self, key: str) -> None:
        """Delete the first version of a key, with the right to bypass a lock of mode governance."""
        self.client.delete_object(
            Bucket="worm", Key=key, VersionId=self.versions(key)[key][0], BypassGovernanceRetention=True
        )


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    yield moto.get_host_and_port()[1]
    moto.stop()


@pytest.fixture
def shelf(server: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Shelf]:
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    endpoint = f"http://127.0.0.1:{server}"
    client = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1")
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    client.create_bucket(Bucket="worm", ObjectLockEnabledForBucket=True)
    client.create_bucket(Bucket="plain")
    yield Shelf(server, client)
    client.close()


@pytest.fixture
def worm(shelf: Shelf) -> Iterator[Bucket]:
    bucket = Bucket("worm", shelf.endpoint)
    yield bucket
    bucket.close()


def in_days(days: int, mode: Any = "compliance") -> Lock:
    return Lock(mode, datetime.now(UTC).replace(microsecond=0) + timedelta(days=days))


def file(tmp_path: Path, data: bytes, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


class Archive:
    """A site whose calls of one range are complete, and the commands on it."""

    def __init__(self, site: Site, shelf: Shelf, calls: int = 40) -> None:
        self.site = site
        self.shelf = shelf
        site.add(calls)
        self.to = datetime.now(UTC)
        to_ns = int(self.to.timestamp() * 1e9)
        until(lambda: site.size() >= calls, 120, "the sequencer")

        def complete() -> bool:
            site.shipper.pass_once()
            with site.store.tenant(site.tenant_id) as conn:
                row = conn.execute("SELECT max(complete_ns) FROM interlock.ledger_checkpoints").fetchone()
            return row is not None and row[0] is not None and row[0] >= to_ns

        until(complete, 120, "the range to be complete", every_s=0.2)

    def words(self, *more: str, prefix: str = "acme/2026", to: str = "") -> list[str]:
        kept = () if "--retain-until" in more else ("--retain-days", "30")
        return ["ledger", "archive", "-t", "acme", "--from", "2020-01-01", "--to", to or self.to.isoformat(),
                "--bucket", "worm", "--prefix", prefix, *kept, "--endpoint", self.shelf.endpoint, "--home",
                str(self.site.home), "--url", self.site.control_url, *more]  # fmt: skip

    def kept(self) -> list[Path]:
        """Exports that are kept until all of them is in the bucket."""
        return [path.parent for path in (self.site.home / "archive").glob("*-acme/manifest.json")]

    def fetch(self, folder: Path, *more: str) -> int:
        return main(["ledger", "fetch", str(folder), "--bucket", "worm", "--prefix", "acme/2026", "--endpoint",
                     self.shelf.endpoint, *more])  # fmt: skip


@pytest.fixture
def archive(site: Site, shelf: Shelf) -> Archive:
    return Archive(site, shelf)


def proved(folder: Path) -> int:
    """The exit code of `ledger verify`."""
    return main(["ledger", "verify", str(folder), "--key", str(folder / "keys.txt")])


def test_an_archive_comes_back_and_proves_itself(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(archive.words("--json", "-m", "audit of 2026")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["kept"], told["mode"]) == ("complete", 0, "compliance")
    there = archive.shelf.versions()
    assert told["put"] == len(there) and all(len(ids) == 1 for ids in there.values())
    for key, (version,) in there.items():
        head = archive.shelf.client.head_object(Bucket="worm", Key=key, VersionId=version)
        assert head["ObjectLockMode"] == "COMPLIANCE"
        assert head["ObjectLockRetainUntilDate"] > datetime.now(UTC) + timedelta(days=29)
        for bypass in (False, True):
            with pytest.raises(Exception, match="AccessDenied"):
                archive.shelf.client.delete_object(
                    Bucket="worm", Key=key, VersionId=version, BypassGovernanceRetention=bypass
                )
    assert archive.shelf.versions() == there
    assert archive.fetch(tmp_path / "back", "--json") == 0
    got = json.loads(capsys.readouterr().out)
    assert (got["files"], got["problems"], got["covered"], got["tenant"]) == (len(there) - 1, [], [], "acme")
    assert proved(tmp_path / "back") == 0
    leaves = (tmp_path / "back" / "entries.jsonl").read_bytes().splitlines()
    assert leaves == archive.site.leaves()[: len(leaves)] and sum(b'"kind":"call"' in leaf for leaf in leaves) == 40
    assert not list((archive.site.home / "archive").glob("*/")), "the export is not kept twice"
    assert archive.fetch(tmp_path / "back") == 1, "a folder that holds something is left alone"
    assert SECRET not in "".join(capsys.readouterr())


def test_an_archive_that_broke_off_is_visibly_none_and_is_finished_by_the_same_command(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put, done = Bucket.put, list[str]()

    def dies(self: Bucket, key: str, *more: Any) -> str:
        if len(done) == limit:
            raise Unavailable("the store is gone")
        done.append(key)
        return put(self, key, *more)

    total = 0
    for limit in (1, 4, 5, 6, 7, 8, 100):
        before = archive.shelf.versions()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Bucket, "put", dies)
            code = main(archive.words("--json"))
        after = archive.shelf.versions()
        assert before.items() <= after.items(), "what was there is there, and nothing was put over it"
        total = len(after)
        if code == 0:
            break
        assert "acme/2026/manifest.json" not in after
        capsys.readouterr()
        assert archive.fetch(tmp_path / f"not-{limit}") == 1
        assert "is no finished archive" in capsys.readouterr().err
        assert not (tmp_path / f"not-{limit}").exists()
    assert code == 0 and limit > 6 and done[-2:] == [f"acme/2026/{name}" for name in (INDEX, "manifest.json")]
    assert all(len(ids) == 1 for ids in archive.shelf.versions().values())
    capsys.readouterr()
    assert archive.fetch(tmp_path / "back") == 0 and proved(tmp_path / "back") == 0
    capsys.readouterr()
    code = main(archive.words("--json"))
    told = capsys.readouterr()
    if code == 0:  # else the tree has other checkpoints by now, and nothing is put over what is there
        assert json.loads(told.out)["put"] == 0
    assert len(archive.shelf.versions()) == total


class _Gate:
    """What the store takes from one process: so many objects. Of one more it is asked in vain until that is killed."""

    def __init__(self, puts: int) -> None:
        self.stuck, self.killed = threading.Event(), threading.Event()
        self._puts = iter(range(puts))

    def passed(self) -> bool:
        """Whether the object is taken."""
        if next(self._puts, None) is not None:
            return True
        self.stuck.set()
        assert self.killed.wait(300)
        return False

    def until_stuck_or_over(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the process waits for the store, or has ended."""
        until(lambda: self.stuck.is_set() or process.poll() is not None, 120, "objects")


def test_a_process_that_is_killed_again_and_again_archives_once(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, gates = S3Backend.put_object, list[_Gate]()

    def gated(*args: Any, **how: Any) -> Any:
        if not gates[-1].passed():
            raise ConnectionError("who asked is gone")
        return put(*args, **how)

    monkeypatch.setattr(S3Backend, "put_object", gated)
    chance = random.Random(3)
    environment = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    kills = 0
    while True:
        gate = _Gate(1 + chance.randrange(3))
        gates.append(gate)
        words = [str(INTERLOCK), *archive.words()]
        process = subprocess.Popen(
            words, env=clean_environment(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        gate.until_stuck_or_over(process)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        gate.killed.set()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL and gate.stuck.is_set(), said.decode()
        kills += 1
    assert kills >= 2 and "acme/2026/manifest.json" in archive.shelf.versions()
    assert all(len(ids) == 1 for ids in archive.shelf.versions().values())
    assert archive.fetch(tmp_path / "back") == 0 and proved(tmp_path / "back") == 0


class Killed(BaseException):
    """A process ends."""


def test_who_is_killed_over_cleaning_up_leaves_nothing_that_is_taken_for_an_export(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remove = shutil.rmtree

    def killed(folder: Any, *more: Any, **how: Any) -> None:
        if Path(folder, "manifest.json").exists():
            Path(folder, "settled.jsonl").unlink()
            raise Killed
        remove(folder, *more, **how)

    with monkeypatch.context() as patch:
        patch.setattr("interlock.cli.ledger_archive.shutil.rmtree", killed)
        with pytest.raises(Killed):
            main(archive.words("--json"))
    assert "acme/2026/manifest.json" in archive.shelf.versions() and not archive.kept()
    capsys.readouterr()
    code = main(archive.words("--json"))
    told = capsys.readouterr()
    assert code == 0 or "is something else" in told.err, told.err  # the tree may have other checkpoints by now


@pytest.mark.parametrize("same", [True, False])
def test_what_a_killed_process_had_sent_may_come_late(
    archive: Archive, same: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    put, late = Bucket.put, list[str]()

    def comes_late(self: Bucket, key: str, path: Path, *more: Any) -> str:
        if not late:
            late.append(key)
            body = path.read_bytes() if same else b"something else"
            archive.shelf.client.put_object(Bucket="worm", Key=key, Body=body)
        return put(self, key, path, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "put", comes_late)
        code = main(archive.words("--json"))
    told = capsys.readouterr()
    if same:
        assert code == 0 and json.loads(told.out)["kept"] == 1, told.err
        head = archive.shelf.client.head_object(Bucket="worm", Key=late[0])
        assert head["ObjectLockMode"] == "COMPLIANCE", "it came without a lock"
    else:
        assert code == 1 and "is something else" in told.err
    assert all(len(ids) == 1 for ids in archive.shelf.versions().values())


def test_what_is_put_over_it_later_neither_changes_nor_hides_it(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(archive.words()) == 0
    client = archive.shelf.client
    for name in ("entries.jsonl", "manifest.json", INDEX):
        client.put_object(Bucket="worm", Key=f"acme/2026/{name}", Body=b"{}")
    client.delete_object(Bucket="worm", Key="acme/2026/start.json")
    client.put_object(Bucket="worm", Key="acme/2026/more", Body=b"{}")
    capsys.readouterr()
    assert archive.fetch(tmp_path / "back", "--json") == 0
    got = json.loads(capsys.readouterr().out)
    assert got["covered"] == sorted(["entries.jsonl", "manifest.json", INDEX, "start.json"])
    assert proved(tmp_path / "back") == 0
    capsys.readouterr()
    assert archive.fetch(tmp_path / "again") == 0
    assert "4 of their objects had been overwritten or marked as deleted" in capsys.readouterr().out


def test_a_missing_and_a_changed_object_are_named_and_leave_no_export(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(archive.words("--mode", "governance")) == 0
    client, key = archive.shelf.client, "acme/2026/entries.jsonl"
    for name in ("start.json", "README.txt"):
        archive.shelf.kill(f"acme/2026/{name}")
    client.put_object(Bucket="worm", Key="acme/2026/start.json", Body=b"{}")
    capsys.readouterr()
    assert archive.fetch(tmp_path / "back", "--json") == 3
    got = json.loads(capsys.readouterr().out)
    assert sorted(got["problems"]) == ["README.txt is missing", "start.json is missing"]
    assert not (tmp_path / "back" / "manifest.json").exists() and proved(tmp_path / "back") == 3
    _change_at_rest(key)
    capsys.readouterr()
    assert archive.fetch(tmp_path / "again") == 3
    said = capsys.readouterr().out
    assert "entries.jsonl is not what was archived" in said and "NOT WHOLE" in said
    archive.shelf.kill("acme/2026/manifest.json")
    assert archive.fetch(tmp_path / "third") == 1
    assert "is no finished archive" in capsys.readouterr().err


def _change_at_rest(key: str) -> None:
    """What a disk, or somebody in the store's cellar, does to an object."""
    from moto.s3.models import s3_backends

    (backend,) = [b for account in s3_backends.values() for b in account.values() if "worm" in b.buckets]
    stored = backend.buckets["worm"].keys.getlist(key)[0]
    stored.value = stored.value.replace(b'"completed"', b'"cancelled"', 1)


def test_nothing_goes_where_it_could_be_deleted_or_something_is(
    archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    words = archive.words()
    words[words.index("worm")] = "plain"
    assert main(words) == 1 and "has no object lock" in capsys.readouterr().err
    assert "Contents" not in archive.shelf.client.list_objects_v2(Bucket="plain")
    words[words.index("plain")] = "nowhere"
    assert main(words) == 1 and "there is none" in capsys.readouterr().err
    client = archive.shelf.client
    client.put_object(Bucket="worm", Key="acme/2026/note.txt", Body=b"mine")
    assert main(archive.words()) == 1 and "holds 1 other objects, such as 'note.txt'" in capsys.readouterr().err
    client.put_object(Bucket="worm", Key="acme/2027/start.json", Body=b"mine")
    client.delete_object(Bucket="worm", Key="acme/2027/start.json")
    assert main(archive.words(prefix="acme/2027")) == 1
    assert "start.json is there already, and is something else" in capsys.readouterr().err
    there = archive.shelf.versions()
    assert (len(there["acme/2026/note.txt"]), len(there["acme/2027/start.json"])) == (1, 1)
    assert not [key for key in there if key.endswith("manifest.json")]


def test_a_range_that_is_not_complete_is_not_archived_unless_it_is_meant(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert main(archive.words(to=later)) == 1
    assert "the range is not complete (open tail" in capsys.readouterr().err
    assert archive.shelf.versions() == {}
    assert main(archive.words("--incomplete", "--json", to=later)) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "open tail"
    assert archive.fetch(tmp_path / "back", "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "open tail" and proved(tmp_path / "back") == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--retain-until", "2001-01-01"), "--retain-until is in the future"),
        (("--retain-until", "2999-01-01"), "--retain-until is in the future"),
        (("--retain-until", "soon"), "a date or time"),
        (("--retain-until", "2030-01-01", "--retain-days", "3"), "give --retain-until DATE, or"),
        (("--retain-days", "-3"), "give --retain-until DATE, or"),
        (("--retain-days", "99999999"), "give --retain-until DATE, or"),
        ((), "give --retain-until DATE, or"),
        (("--retain-days", "3", "--mode", "legal"), "--mode is compliance or governance"),
        (("--retain-days", "3", "--to", "2019-01-01"), "--from must be before --to"),
        (("--retain-days", "3", "--prefix", "../up"), "no part . or .."),
        (("--retain-days", "3", "--prefix", ""), "--prefix is made of"),
        (("--retain-days", "3", "--prefix", "a//b"), "--prefix is made of"),
        (("--retain-days", "3", "--prefix", "a b"), "--prefix is made of"),
        (("--retain-days", "3", "--endpoint", "127.0.0.1:9000"), "--endpoint is an http or https URL"),
        (("--retain-days", "3", "--endpoint", f"http://me:{SECRET}@127.0.0.1"), "--endpoint is an http or https URL"),
        (("--retain-days", "3", "--bucket", "A B"), "Invalid bucket name"),
        (("--retain-days", "3", "-t", "../x"), "is not the name of a tenant"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], words: str
) -> None:
    basic = {"-t": "acme", "--from": "2020-01-01", "--to": "2026-01-01", "--bucket": "worm", "--prefix": "p",
             "--endpoint": shelf.endpoint, "--home": str(tmp_path)}  # fmt: skip
    options = basic | dict(zip(given[::2], given[1::2], strict=True))
    assert main(["ledger", "archive", *itertools.chain(*options.items())]) == 1
    said = capsys.readouterr().err
    assert words in said and SECRET not in said


def test_without_credentials_or_store_it_says_so(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, server: int) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="no credentials for the store"):
        Bucket("worm", shelf.endpoint).require_lock()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(Unavailable, match="the store cannot be reached"):
        Bucket("worm", "http://127.0.0.1:1").require_lock()


def test_a_lock_is_extended_and_never_shortened(worm: Bucket, shelf: Shelf, tmp_path: Path) -> None:
    path = file(tmp_path, b"said")
    digest = digest_of(path)
    worm.put("k", path, digest, in_days(10, "governance"))

    def lock() -> tuple[str, int]:
        head = shelf.client.head_object(Bucket="worm", Key="k")
        return head["ObjectLockMode"], round(
            (head["ObjectLockRetainUntilDate"] - datetime.now(UTC)).total_seconds() / 86400
        )

    for asked, then in (
        (in_days(10, "governance"), ("GOVERNANCE", 10)),
        (in_days(5, "governance"), ("GOVERNANCE", 10)),
        (in_days(12, "governance"), ("GOVERNANCE", 12)),
        (in_days(5), ("COMPLIANCE", 12)),
        (in_days(20, "governance"), ("COMPLIANCE", 20)),
        (in_days(7, "governance"), ("COMPLIANCE", 20)),
    ):
        worm.keep("k", worm.versions("")["k"], digest, asked)
        assert lock() == then, asked
    with pytest.raises(Conflict, match="is there already, and is something else"):
        worm.keep("k", worm.versions("")["k"], digest_of(file(tmp_path, b"else", "other")), in_days(1))
    with pytest.raises(Conflict, match="meanwhile"):
        worm.put("k", path, digest, in_days(1))
    assert len(shelf.versions()["k"]) == 1


def test_a_store_that_takes_the_lock_and_forgets_it_is_noticed(
    worm: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(tmp_path, b"said")
    monkeypatch.setattr(objects, "_locked", lambda lock: {})
    version = worm.put("k", path, digest_of(path), in_days(10))
    monkeypatch.setattr(worm._client, "put_object_retention", lambda **_: None)
    with pytest.raises(InterlockError, match="the store does not lock it"):
        worm.keep("k", objects.Version(version, 4, False), digest_of(path), in_days(10))


@pytest.mark.parametrize("extra", [0, 1, 100_000])
def test_a_large_file_goes_up_in_parts(
    worm: Bucket, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: int
) -> None:
    monkeypatch.setattr(objects, "PART_BYTES", 5 << 20)
    data = random.Random(extra).randbytes((10 << 20) + extra)
    path = file(tmp_path, data)
    digest = digest_of(path)
    assert (digest.size, len(digest.parts)) == (len(data), 2 + (extra > 0))
    lock = in_days(10)
    version = objects.Version(worm.put("big", path, digest, lock), len(data), False)
    worm.keep("big", version, digest, lock)
    assert worm.get("big", version.id, tmp_path / "back") == digest.sha256
    assert (tmp_path / "back").read_bytes() == data
    assert shelf.client.head_object(Bucket="worm", Key="big")["ObjectLockMode"] == "COMPLIANCE"
    assert "Uploads" not in shelf.client.list_multipart_uploads(Bucket="worm")
    other = file(tmp_path, data[:-1] + bytes([data[-1] ^ 1]), "other")
    with pytest.raises(Conflict, match="something else"):
        worm.keep("big", version, digest_of(other), lock)
    with pytest.raises(Conflict, match="meanwhile"):
        worm.put("big", path, digest, lock)
    assert "Uploads" not in shelf.client.list_multipart_uploads(Bucket="worm")
    assert len(shelf.versions()["big"]) == 1


def test_small_files_have_one_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PART_BYTES", 3 << 20)
    for size in (0, 1, (3 << 20) - 1, 3 << 20):
        digest = digest_of(file(tmp_path, b"x" * size))
        assert len(digest.parts) == 1 and digest.size == size and "-" not in digest.checksum
    monkeypatch.setattr(objects, "PARTS_MAX", 1)
    with pytest.raises(BadRequest, match="archive a shorter range"):
        digest_of(file(tmp_path, b"x" * ((3 << 20) + 1)))


@pytest.mark.parametrize(
    "names",
    [
        ("../out", "manifest.json"),
        ("/etc/passwd", "manifest.json"),
        ("checkpoints/../../x", "manifest.json"),
        ("entries.jsonl\n", "manifest.json"),
        ("entries.jsonl", "entries.jsonl", "manifest.json"),
        ("manifest.json", "manifest.json"),
        ("manifest.json", "entries.jsonl"),
        (INDEX, "manifest.json"),
        (".hidden", "manifest.json"),
        ("a/b/c/d", "manifest.json"),
        (),
    ],
)
def test_an_index_with_strange_names_writes_nothing(worm: Bucket, tmp_path: Path, names: tuple[str, ...]) -> None:
    listed = Archived("acme", "ten_1", "complete", [ArchivedFile(name, 1, "0" * 64, "") for name in names])
    for name, data in ((INDEX, msgspec.json.encode(listed)), ("manifest.json", b"{}")):
        path = file(tmp_path, data, f"in-{name}")
        worm.put(f"p/{name}", path, digest_of(path), in_days(1))
    with pytest.raises(BadRequest, match="names what is no file of an export"):
        fetch_archive(worm, "p/", tmp_path / "back", None)
    assert [path.name for path in (tmp_path / "back").iterdir()] == [INDEX]


def test_two_processes_never_archive_one_range_from_one_home(
    archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges = ledger_archive.range_of("2020-01-01", archive.to.isoformat())
    with ledger_archive._alone(archive.site.home / "archive" / f"{ranges[0]}-{ranges[1]}-acme"):
        assert main(archive.words()) == 1
    assert "another process archives the same range" in capsys.readouterr().err
    assert archive.shelf.versions() == {}
