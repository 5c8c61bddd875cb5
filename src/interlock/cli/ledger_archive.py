"""An export of the ledger in write-once storage: put there under a lock, and brought back to be verified."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from interlock.cli.common import AsJson, Ca, Home, InTenant, Reason, Url, client_of, reason_or, settings_of
from interlock.cli.ledger import NOT_COMPLETE, instant, progress, range_of, trusted, write_export
from interlock.cli.output import put, put_json
from interlock.errors import BadRequest, Conflict, NotFound
from interlock.ledger.proof import folder as names
from interlock.storage.objects import CONNECTIONS_MAX, Bucket, Digest, Lock, Version, digest_of

INDEX = "archive.json"
"""The object that lists all others with size, SHA-256 and version, put before the manifest."""
INDEX_BYTES_MAX = 1 << 30
RETAIN_DAYS_MAX = 36_525
PROBLEMS_MAX = 100
_PREFIX_CHARS_MAX = 512
_NAME = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]*/){0,2}[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""Names of files in an export: what none of them can be leads out of a folder, or hides in it."""
_T = TypeVar("_T")
_R = TypeVar("_R")
_Bucket = Annotated[str, typer.Option(help="Name of the bucket.")]
_Prefix = Annotated[str, typer.Option(help="What the names of the archive's objects begin with, such as acme/2026-03.")]
_Endpoint = Annotated[str, typer.Option(help="URL of the store; Amazon's, or AWS_ENDPOINT_URL, otherwise.")]


class ArchivedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the export as an object. `sha256` in hex. `version`: of its key; "" of the manifest, which is last."""

    name: str
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    version: str


class Archived(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What archive.json holds: the tenant's name and tree, the verdict when it was archived, and every file by name."""

    tenant: str
    tree: str
    verdict: str
    files: list[ArchivedFile]
    v: int = 1


def archive(
    tenant: InTenant,
    from_: Annotated[str, typer.Option("--from", help="Begin: 2026-03-01 or 2026-03-01T12:00:00Z (UTC).")],
    to: Annotated[str, typer.Option("--to", help="End, not included.")],
    bucket: _Bucket,
    prefix: _Prefix,
    retain_until: Annotated[str, typer.Option(help="Nobody may delete it before: 2036-04-01.")] = "",
    retain_days: Annotated[int, typer.Option(help="The same, so many days from now.")] = 0,
    mode: Annotated[str, typer.Option(help="compliance, or governance (a special right may delete).")] = "compliance",
    endpoint: _Endpoint = "",
    incomplete: Annotated[bool, typer.Option("--incomplete", help="Also a range that is not complete.")] = False,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Put an export into a bucket with object lock, where it can be neither changed nor deleted. It can be repeated."""
    range_ns = range_of(from_, to)
    lock = _lock(mode, retain_until, retain_days)
    prefix = _prefix(prefix)
    # kept until all of it is in the bucket: made again, an export of an idle tenant may have other checkpoints
    work = settings_of(home).home_path("archive", f"{range_ns[0]}-{range_ns[1]}-{_slug(tenant)}")
    with contextlib.closing(Bucket(bucket, endpoint)) as store, _alone(work):
        store.require_lock()
        done_with = work.with_name(f"{work.name}.done")
        shutil.rmtree(done_with, ignore_errors=True)  # of a process that was killed over it
        if not (work / names.MANIFEST).is_file():
            shutil.rmtree(work, ignore_errors=True)
            why = reason_or(reason, "ledger archive")
            write_export(client_of(home, url, ca), work, tenant, *range_ns, why)
        verdict, tree = _checked(work, incomplete)
        archiving = Archiving(store, prefix, lock, None if as_json else progress("objects"))
        done = archiving.run(work, tenant, tree, verdict)
        work.rename(done_with)  # half of it would be taken for an export that was kept, and be found altered
        shutil.rmtree(done_with)
    told = {"bucket": bucket, "prefix": prefix, "verdict": verdict, "mode": lock.mode, **done}
    told["retain_until"] = lock.until.isoformat()
    if as_json:
        put_json(told)
    else:
        put(f"{done['put']} objects put, {done['kept']} were there; {bucket}/{prefix} holds until"
            f" {lock.until:%Y-%m-%d %H:%M} UTC ({verdict}). Back with: interlock ledger fetch DIR --bucket {bucket}"
            f" --prefix {prefix.rstrip('/')}{f' --endpoint {endpoint}' if endpoint else ''}")  # fmt: skip


def fetch(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    bucket: _Bucket,
    prefix: _Prefix,
    endpoint: _Endpoint = "",
    as_json: AsJson = False,
) -> None:
    """Bring an archived export back to a new folder. Exit code 3 when an object of it is missing or was changed."""
    prefix = _prefix(prefix)
    with contextlib.closing(Bucket(bucket, endpoint)) as store:
        got = fetch_archive(store, prefix, folder, None if as_json else progress("objects"))
    if as_json:
        put_json({"folder": str(folder), **got})
    else:
        put(f"{got['files']} files in {folder}", *(f"  {problem}" for problem in got["problems"]))
        if got["covered"]:
            put(f"  {len(got['covered'])} of their objects had been overwritten or marked as deleted since; what was"
                f" archived lies under that, and is what you have: {', '.join(got['covered'][:5])}")  # fmt: skip
        put("  NOT WHOLE" if got["problems"] else f"Check it with: interlock ledger verify {folder} --key KEY")
    if got["problems"]:
        raise typer.Exit(NOT_COMPLETE)


def add_to(app: typer.Typer) -> None:
    """The commands of this file."""
    app.command()(archive)
    app.command()(fetch)


class Archiving:
    """One export on its way into a bucket.

    INVARIANT: the manifest is put last, when every other object is there, is what it should be, and is locked.
    """

    def __init__(self, store: Bucket, prefix: str, lock: Lock, say: Callable[[int, int], None] | None) -> None:
        self._store = store
        self._prefix = prefix
        self._lock = lock
        self._say = say
        self._there: dict[str, Version] = {}
        self._put = 0

    def run(self, folder: Path, tenant: str, tree: str, verdict: str) -> dict[str, int]:
        """How many objects were put, and how many were there. Raises Conflict when others are in the way."""
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        last = paths.pop(names.MANIFEST)
        if not _sound(paths):
            raise BadRequest(f"{folder} holds what is no file of an export", param="folder")
        self._there = self._store.versions(self._prefix)
        others = sorted(self._there.keys() - paths.keys() - {INDEX, names.MANIFEST})
        if others:
            raise Conflict(
                f"{self._store.name}/{self._prefix} holds {len(others)} other objects, such as {others[0]!r}: name"
                " another --prefix, or the range that was archived there",
                param="prefix",
            )
        files = _side_by_side(lambda each: self._one(*each), paths.items(), self._say)
        manifest = digest_of(last)
        files.append(ArchivedFile(names.MANIFEST, manifest.size, manifest.sha256.hex(), ""))
        index = folder.with_name(folder.name + ".index")
        index.write_bytes(msgspec.json.encode(Archived(tenant, tree, verdict, files), order="sorted") + b"\n")
        try:
            self._one(INDEX, index)
        finally:
            index.unlink()
        self._one(names.MANIFEST, last)
        return {"put": self._put, "kept": len(files) + 1 - self._put}

    def _one(self, name: str, path: Path) -> ArchivedFile:
        """Have one file there, locked."""
        key, digest = self._prefix + name, digest_of(path)
        version = self._there.get(name)
        if version is None:
            version = self._new(key, path, digest)
        self._store.keep(key, version, digest, self._lock)
        return ArchivedFile(name, digest.size, digest.sha256.hex(), version.id)

    def _new(self, key: str, path: Path, digest: Digest) -> Version:
        """Put a file where nothing was. What came there meanwhile is taken for it, until its digest is looked at: a
        store may finish what a process that was killed had sent it, after the next one looked what is there."""
        try:
            version = Version(self._store.put(key, path, digest, self._lock), digest.size, covered=False)
        except Conflict:
            late = self._store.versions(key).get("")
            if late is None:
                raise
            return late
        self._put += 1
        return version


def fetch_archive(store: Bucket, prefix: str, folder: Path, say: Callable[[int, int], None] | None) -> dict[str, Any]:
    """Write an archive's files to a new folder, the manifest last and only when all others are as they were.

    Raises NotFound when there is no archive, or one that was not finished; BadRequest when the folder is not empty.
    """
    there = store.versions(prefix)
    for name in (names.MANIFEST, INDEX):
        if name not in there:
            raise NotFound(
                f"{store.name}/{prefix} is no finished archive: it has no {name}; archive the same range again",
                param="prefix",
            )
    if there[INDEX].size > INDEX_BYTES_MAX:
        raise BadRequest(f"{prefix}{INDEX} is larger than an index is", param="prefix")
    _new_folder(folder)
    index = folder / INDEX
    store.get(prefix + INDEX, there[INDEX].id, index)
    listed = _index(index.read_bytes(), prefix)
    index.unlink()
    *files, manifest = listed.files
    for part in {(folder / each.name).parent for each in files}:
        part.mkdir(mode=0o700, parents=True, exist_ok=True)

    def one(each: ArchivedFile) -> str:
        """What is wrong with a file, or ""."""
        version = each.version or there[each.name].id
        path = folder / each.name
        try:
            got = store.get(prefix + each.name, version, path)
        except NotFound:
            return f"{each.name} is missing"
        if got.hex() != each.sha256 or path.stat().st_size != each.bytes:
            path.unlink()
            return f"{each.name} is not what was archived"
        return ""

    problems = [problem for problem in _side_by_side(one, files, say) if problem]
    if not problems:
        problems = [problem for problem in (one(manifest),) if problem]
    covered = sorted(name for name in (*(each.name for each in files), INDEX, names.MANIFEST) if _over(there, name))
    return {
        "files": len(listed.files) - len(problems),
        "tenant": listed.tenant,
        "verdict": listed.verdict,
        "problems": problems[:PROBLEMS_MAX],
        "covered": covered,
    }


def _over(there: dict[str, Version], name: str) -> bool:
    return name in there and there[name].covered


def _index(data: bytes, prefix: str) -> Archived:
    """Read archive.json. Raises BadRequest: malformed, or with names that are none of an export."""
    try:
        listed = msgspec.json.decode(data, type=Archived)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadRequest(f"{prefix}{INDEX} is not the index of an archive", param="prefix") from None
    *files, last = [each.name for each in listed.files] or [""]
    if last != names.MANIFEST or len({*files}) != len(files) or not _sound(files):
        raise BadRequest(f"{prefix}{INDEX} names what is no file of an export", param="prefix")
    return listed


def _sound(files: Iterable[str]) -> bool:
    """Whether these may be files of an export, index and manifest apart."""
    return all(_NAME.fullmatch(name) and name not in (INDEX, names.MANIFEST) for name in files)


def _checked(folder: Path, incomplete: bool) -> tuple[str, str]:
    """What `verify` says of the export by its own keys, and its tree. Raises Conflict unless it is complete, or may be
    incomplete."""
    from interlock.ledger.proof.verify import verify_export

    report = verify_export(folder, trusted((folder / names.KEYS).read_text().splitlines()))
    if report.verdict == "complete" or (incomplete and report.verdict != "altered"):
        return report.verdict, names.Manifest.decode((folder / names.MANIFEST).read_bytes()).tree
    shutil.rmtree(folder)
    raise Conflict(
        f"the range is not complete ({report.verdict}: {report.words}); what is put under a lock stays as it is, so"
        " archive it later, or as it is with --incomplete",
        code="not_complete",
    )


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """One process at a time archives a range from here. Raises Conflict."""
    work.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with work.with_name(work.name + ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another process archives the same range: {work}") from None
        yield


def _side_by_side(work: Callable[[_T], _R], each: Iterable[_T], say: Callable[[int, int], None] | None) -> list[_R]:
    """Do a thing for each, several at a time, in their order. The first error ends it."""
    wanted = list(each)
    done: list[_R] = []
    with ThreadPoolExecutor(CONNECTIONS_MAX) as pool:
        futures = [pool.submit(work, one) for one in wanted]
        try:
            for future in futures:
                done.append(future.result())
                if say is not None:
                    say(len(done), len(wanted))
        finally:
            for future in futures:
                future.cancel()
    return done


def _lock(mode: str, retain_until: str, retain_days: int) -> Lock:
    if mode not in ("compliance", "governance"):
        raise BadRequest("--mode is compliance or governance", param="mode")
    if bool(retain_until) == bool(retain_days) or not 0 <= retain_days <= RETAIN_DAYS_MAX:
        raise BadRequest(
            f"give --retain-until DATE, or --retain-days from 1 to {RETAIN_DAYS_MAX}", param="retain-until"
        )
    now = datetime.fromtimestamp(time.time(), UTC).replace(microsecond=0)
    until = now + timedelta(days=retain_days)
    if retain_until:
        until = datetime.fromtimestamp(instant(retain_until) // 1_000_000_000, UTC)
        if not now < until <= now + timedelta(days=RETAIN_DAYS_MAX):
            raise BadRequest(
                f"--retain-until is in the future, and {RETAIN_DAYS_MAX} days at most", param="retain-until"
            )
    return Lock("compliance" if mode == "compliance" else "governance", until)


def _prefix(prefix: str) -> str:
    """With a slash at its end. Raises BadRequest for what a store may read in another way."""
    parts = prefix.strip("/").split("/")
    if len(prefix) > _PREFIX_CHARS_MAX or not all(re.fullmatch(r"[A-Za-z0-9!_.*'()=@:+-]+", part) for part in parts):
        raise BadRequest("--prefix is made of letters, digits and !_.*'()=@:+- between slashes", param="prefix")
    if any(part in (".", "..") for part in parts):
        raise BadRequest("--prefix has no part . or ..", param="prefix")
    return "/".join(parts) + "/"


def _slug(tenant: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}", tenant):
        raise BadRequest(f"{tenant!r} is not the name of a tenant", param="tenant")
    return tenant


def _new_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        empty = not any(folder.iterdir())
    except OSError as e:
        raise BadRequest(f"{folder}: {e.strerror}; name a new folder", param="folder") from None
    if not empty:
        raise BadRequest(f"{folder} is not empty: name a new folder", param="folder")
