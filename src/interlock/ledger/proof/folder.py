"""The export folder: what an auditor gets of one tree and a range of time. `docs/ledger-proofs.md` lists its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from interlock.errors import BadRequest
from interlock.ledger.proof import checkpoint
from interlock.ledger.proof.coverage import Count, EpochId, Name, Ns
from interlock.ledger.proof.entry import CONTENT_ID, LEAF_BYTES_MAX
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.merkle import CompactRange
from interlock.ledger.proof.note import VerifierKey, split_note
from interlock.ledger.proof.opening import Opening, content_id
from interlock.ledger.proof.readme import readme
from interlock.ledger.proof.rotation import Line, open_told

MANIFEST, KEYS, START, ENTRIES = "manifest.json", "keys.txt", "start.json", "entries.jsonl"
SETTLED, LISTS, README = "settled.jsonl", "lists.jsonl", "README.txt"
CHECKPOINTS, CONTENTS = "checkpoints", "contents"
OPENED, OPENINGS = "opened", "opened.jsonl"
PRUNED, PRUNED_STATE = "pruned.note", "pruned.json"
ROTATIONS = "rotations.jsonl"

_ENCODER = msgspec.json.Encoder(order="sorted")
_T = TypeVar("_T")


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an export is of: one tree of a cell, the entries admitted in [from_ns, to_ns) and those around them.

    The entries are the leaves [start_size, end_size). Times are Unix ns. `payloads`: the ciphertexts are there too.
    `checkpoints` counts the checkpoint files; the writer fills it in. `pruned`: where the entries begin that still have
    their text, if they do not from start_size on. `opened` counts the plaintexts, where they were asked for; the writer
    fills it in. JSON has `from` and `to` for from_ns and to_ns.
    """

    tree: Name
    cell: str
    from_ns: Ns = msgspec.field(name="from")
    to_ns: Ns = msgspec.field(name="to")
    start_size: Count
    end_size: Count
    made_at: Ns
    payloads: bool
    checkpoints: Count | None = None
    pruned: Count | None = None
    opened: Count | None = None
    v: int = 1

    @property
    def first(self) -> int:
        """The index of the first entry that is there."""
        return self.start_size if self.pruned is None else self.pruned

    def encode(self) -> bytes:
        """Canonical JSON. Without a pruned range and plaintexts it is as verifiers of before that know it."""
        fields = msgspec.to_builtins(self)
        return _ENCODER.encode({k: v for k, v in fields.items() if k not in ("pruned", "opened") or v is not None})

    @staticmethod
    def decode(data: bytes) -> Manifest:
        """ProofError if it is not a manifest, or contradicts itself."""
        made = decode_json(data, Manifest)
        if made.v != 1:
            raise ProofError(f"export format {made.v} is not known to this version")
        if made.from_ns > made.to_ns or made.start_size > made.end_size:
            raise ProofError("the manifest ends before it begins")
        if made.pruned is not None and not made.start_size <= made.pruned <= made.end_size:
            raise ProofError("the manifest names a pruned range outside of the export")
        if made.opened is not None and not made.payloads:
            raise ProofError("the manifest names plaintexts, but no payloads")
        if not (made.tree.isprintable() and made.cell.isprintable()):
            raise ProofError("the manifest has a name that cannot be printed")
        return made


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tree before the first entry: its size, its compact range in hex, and `n` of each epoch not settled then."""

    size: Count
    hashes: list[Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]]
    counts: dict[EpochId, Count]

    def range(self) -> CompactRange:
        """The compact range. ProofError if it does not have as many hashes as it must."""
        return CompactRange.of(self.size, [bytes.fromhex(each) for each in self.hashes])


class ContentList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of lists.jsonl: the ids, in order, of the ciphertexts of a list."""

    id: Annotated[str, msgspec.Meta(max_length=128)] = msgspec.field(name="list")
    items: list[Annotated[str, msgspec.Meta(max_length=128)]]


def decode_json(data: bytes, kind: type[_T]) -> _T:
    """Read JSON of this type. ProofError if it is not."""
    try:
        return msgspec.json.decode(data, type=kind, strict=True)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProofError(str(error)[:200]) from None


def checkpoint_name(at: int, size: int) -> str:
    """The name of a checkpoint's files, without their ending."""
    return f"{at:020}-{size:020}"


class ExportWriter:
    """Writes an export into a new folder (mode 0700, files 0600). BadRequest if `path` exists and is not empty.

    Call `start` once, then the others in any order; checkpoints, entries and settled lines each in their own order.
    `close` writes the manifest last: a folder without one is an export that was not finished. As a context manager it
    closes if the block ended well, and otherwise only lets go of its files. Nothing is verified but what would be
    written where it does not belong: ProofError. OSError as it comes.
    """

    def __init__(self, path: Path, manifest: Manifest, keys: Sequence[str]) -> None:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise BadRequest(f"The folder {path} is not empty: name a new one for the export.", param="path")
        except (FileExistsError, NotADirectoryError):
            raise BadRequest(f"{path} is not a folder: name a new one for the export.", param="path") from None
        path.chmod(0o700)
        self._path = path
        self._manifest = manifest
        self._checkpoints = 0
        self._count = 0
        self._lists: set[str] = set()
        (path / CHECKPOINTS).mkdir(mode=0o700)
        self._put((KEYS,), "".join(f"{VerifierKey.parse(key).text}\n" for key in keys).encode())
        self._entries = self._open(ENTRIES)
        self._settled = self._open(SETTLED)
        self._rotations: Any = None
        self._list_file = self._open(LISTS) if manifest.payloads else None
        if manifest.payloads:
            (path / CONTENTS).mkdir(mode=0o700)
        self._opened: set[str] = set()
        self._openings = self._open(OPENINGS) if manifest.opened is not None else None
        if manifest.opened is not None:
            (path / OPENED).mkdir(mode=0o700)

    def __enter__(self) -> ExportWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._let_go()

    def start(self, size: int, hashes: Sequence[bytes], counts: Mapping[str, int]) -> None:
        """The tree before the first entry: `hashes` are its compact range (32 bytes each, largest subtree first),

        `counts` the number of entries of each epoch that was not settled at the start checkpoint.
        """
        if size != self._manifest.start_size:
            raise ProofError(f"the manifest starts at {self._manifest.start_size}, not {size}")
        made = Start(size=size, hashes=[each.hex() for each in hashes], counts=dict(counts))
        made.range()
        self._put((START,), _ENCODER.encode(made))

    def checkpoint(self, note: str, coverage: bytes) -> None:
        """A signed checkpoint and the exact bytes of its coverage."""
        made = checkpoint.parse(split_note(note)[0])
        if hashlib.sha256(coverage).digest() != made.coverage:
            raise ProofError("the coverage is not the one that the checkpoint names")
        name = checkpoint_name(made.at, made.size)
        self._put((CHECKPOINTS, f"{name}.note"), note.encode())
        self._put((CHECKPOINTS, f"{name}.coverage.json"), coverage)
        self._checkpoints += 1

    def pruned(self, note: str, state: bytes) -> None:
        """The statement that the entries before `Manifest.pruned` lost their text, and the exact bytes of its state."""
        self._put((PRUNED,), note.encode())
        self._put((PRUNED_STATE,), state)

    def entry(self, leaf: bytes) -> None:
        """The next leaf."""
        if b"\n" in leaf or len(leaf) > LEAF_BYTES_MAX:
            raise ProofError("a leaf is one line")
        self._entries.write(leaf + b"\n")
        self._count += 1

    def settled(self, line: bytes) -> None:
        """The next line of the settled chain."""
        if b"\n" in line:
            raise ProofError("a settled line is one line")
        self._settled.write(line + b"\n")

    def rotation(self, statement: str, head: str | None) -> None:
        """The next change of the signing key, with this tree's checkpoint of the change-over if it had begun."""
        line = _ENCODER.encode(Line(statement, head))
        open_told(line)
        self._rotations = self._rotations or self._open(ROTATIONS)
        self._rotations.write(line + b"\n")

    def content(self, id_hex: str, data: bytes) -> None:
        """A ciphertext. One that is there already is not written again."""
        folder = self._path / CONTENTS / _checked(id_hex)[:2]
        if self._list_file is None:
            raise ProofError("the manifest says that the export has no payloads")
        folder.mkdir(mode=0o700, exist_ok=True)
        if not (folder / f"{id_hex}.bin").exists():
            self._put((CONTENTS, id_hex[:2], f"{id_hex}.bin"), data)

    def opened(self, id_hex: str, salt: bytes, plain: bytes) -> None:
        """A plaintext with what proves it. One that is there already is not written again."""
        if self._openings is None:
            raise ProofError("the manifest says that the export has no plaintexts")
        if id_hex in self._opened:
            return
        if content_id(salt, plain).hex() != id_hex:
            raise ProofError("a plaintext is not the one that its id names")
        folder = self._path / OPENED / id_hex[:2]
        folder.mkdir(mode=0o700, exist_ok=True)
        self._put((OPENED, id_hex[:2], f"{id_hex}.txt"), plain)
        self._openings.write(_ENCODER.encode(Opening(id_hex, salt.hex())) + b"\n")
        self._opened.add(id_hex)

    def list(self, id_hex: str, items: Sequence[str]) -> None:
        """Which ciphertexts a list has, in order. A list that is there already is not written again."""
        if self._list_file is None:
            raise ProofError("the manifest says that the export has no payloads")
        made = ContentList(id=_checked(id_hex), items=[_checked(each) for each in items])
        if id_hex not in self._lists:
            self._lists.add(id_hex)
            self._list_file.write(_ENCODER.encode(made) + b"\n")

    def close(self) -> None:
        """Write the page for people and the manifest, and wait until all of it is on the disk.

        ProofError, and no manifest, unless `start` was called and there are as many entries as the manifest says.
        """
        self._let_go()
        wanted = self._manifest.end_size - self._manifest.first
        if self._count != wanted or not (self._path / START).exists():
            raise ProofError(f"the export has {self._count} entries and not {wanted}, or no start")
        opened = None if self._openings is None else len(self._opened)
        manifest = msgspec.structs.replace(self._manifest, checkpoints=self._checkpoints, opened=opened)
        self._put((README,), readme(manifest.tree, manifest.cell, manifest.from_ns, manifest.to_ns).encode())
        _sync(self._path)
        self._put((MANIFEST,), manifest.encode() + b"\n")
        _sync_one(self._path / MANIFEST)
        _sync_one(self._path)
        _sync_one(self._path.parent)

    def _let_go(self) -> None:
        for each in (self._entries, self._settled, self._rotations, self._list_file, self._openings):
            if each is not None:
                each.close()

    def _open(self, *parts: str) -> Any:
        descriptor = os.open(self._path.joinpath(*parts), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "wb", buffering=1 << 20)

    def _put(self, parts: tuple[str, ...], data: bytes) -> None:
        with self._open(*parts) as file:
            file.write(data)


def _checked(id_hex: str) -> str:
    if not CONTENT_ID.fullmatch(id_hex):
        raise ProofError("the id of a content has 4 to 128 hex digits")
    return id_hex


def _sync(folder: Path) -> None:
    """fsync all files and folders below, and the folder itself."""
    for each in folder.iterdir():
        if each.is_dir():
            _sync(each)
        else:
            _sync_one(each)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
