"""The ciphertexts of an export, held against the references of its entries.

References come in the order of the entries, files lie by their id. So references are sorted into 256 parts by the first
byte of the id, in temporary files, and looked at part by part: memory stays at a small share of the export.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from interlock.ledger.proof.coverage import SETTLED_START
from interlock.ledger.proof.entry import CONTENT_ID, Reference
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.findings import Findings
from interlock.ledger.proof.folder import CONTENTS, LISTS, OPENED, OPENINGS, ContentList, decode_json
from interlock.ledger.proof.opening import Opening, list_id
from interlock.ledger.proof.source import Missing, Source

PARTS = [f"{byte:02x}" for byte in range(256)]
_BUFFER = 32 << 10
_HASHES_KEPT = 1 << 16
ID_BYTES = 32

T = TypeVar("T")


class Parts(Generic[T]):
    """Records in 256 temporary files, by the first two hex digits of their id."""

    def __init__(self, folder: Path, kind: type[T]) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._decoder = msgspec.json.Decoder(kind)
        self._buffers: dict[str, bytearray] = {}
        self._written: set[str] = set()

    def put(self, id_: str, record: T) -> None:
        """Add a record of this id."""
        part = id_[:2]
        buffer = self._buffers.setdefault(part, bytearray())
        buffer += msgspec.json.encode(record) + b"\n"
        if len(buffer) > _BUFFER:
            with (self._folder / part).open("ab") as file:
                file.write(self._buffers.pop(part))
            self._written.add(part)

    def get(self, part: str) -> Iterator[T]:
        """The records of a part, in the order they came."""
        if part in self._written:
            with (self._folder / part).open("rb") as file:
                for line in file:
                    yield self._decoder.decode(line)
        for rest in bytes(self._buffers.get(part, b"")).splitlines():
            yield self._decoder.decode(rest)


class ListPlace(msgspec.Struct, array_like=True):
    """Where in lists.jsonl a list is: its line number, offset and length in bytes."""

    id: str
    line: int
    offset: int
    length: int


class OpeningPlace(msgspec.Struct, array_like=True):
    """An opening and the number of its line."""

    opening: Opening
    line: int


class Resolved(msgspec.Struct):
    """A list: how many items, how many of them are there, and the digest in hex if all are."""

    count: int
    present: int
    digest: str


class Contents:
    """Collects references with `add`; `check` looks at the files. `scratch` is an empty folder for temporary files.
    `opened`: how many plaintexts there must be; None: there must be none.

    Memory: the references of one part of 256, the lines of one list, and the ids of erased subjects.
    """

    def __init__(self, source: Source, findings: Findings, scratch: Path, opened: int | None) -> None:
        self._source = source
        self._findings = findings
        self._references = Parts(scratch / "references", Reference)
        self._list_references = Parts(scratch / "list-references", Reference)
        self._lists = Parts(scratch / "lists", ListPlace)
        self._items = Parts(scratch / "items", str)
        self._bound = Parts(scratch / "bound", str)
        self._openings = Parts(scratch / "openings", OpeningPlace)
        self._expected = opened
        self.opened = 0
        """Plaintexts that are what entries name."""
        self._erased: set[str] = set()
        self._hashes: dict[str, tuple[bytes, int] | None] = {}

    def add(self, references: list[Reference], erased: list[str]) -> None:
        """References and erased subjects of entries."""
        for each in references:
            (self._list_references if each.is_list else self._references).put(each.id, each)
        self._erased.update(erased)

    def check(self) -> int:
        """Hold the files against the references. Returns how many files were checked."""
        self._check_lists()
        self._index_openings()
        folders = self._names(CONTENTS)
        for name in folders:
            if name not in PARTS:
                self._findings.altered(f"{CONTENTS}/{name}: is no part of an export")
        checked = sum(self._check_part(part, part in folders) for part in PARTS)
        self._count_opened()
        return checked

    def _check_part(self, part: str, exists: bool) -> int:
        known = set(self._items.get(part))
        bound = set(self._bound.get(part))
        for each in self._references.get(part):
            known.add(each.id)
            bound.add(each.id)
            self._check_reference(each)
        self._check_opened(part, bound)
        files = self._names(CONTENTS, part) if exists else []
        strays = [name for name in files if name.removesuffix(".bin") not in known or not name.endswith(".bin")]
        for name in strays:
            self._findings.altered(f"{CONTENTS}/{part}/{name}: belongs to no entry of the export")
        return len(files) - len(strays)

    def _index_openings(self) -> None:
        number = 0
        try:
            for line in self._source.lines(OPENINGS):
                number += 1
                made = decode_json(line, Opening)
                self._openings.put(made.id, OpeningPlace(made, number))
        except Missing:
            return
        except ProofError as error:
            self._findings.altered(f"{OPENINGS}:{number}: {error}")

    def _check_opened(self, part: str, bound: set[str]) -> None:
        """The plaintexts of a part: each must be what its salt and the id in an entry say."""
        names: set[str] = set()
        for place in self._openings.get(part):
            id_, salt = place.opening.id, bytes.fromhex(place.opening.salt)
            name = f"{id_}.txt"
            if id_ not in bound:
                self._findings.altered(f"{OPENINGS}:{place.line}: {id_} is named by no entry of the export")
            elif name in names:
                self._findings.altered(f"{OPENINGS}:{place.line}: {id_} is there twice")
            elif self._opens(part, name, salt, id_):
                self.opened += 1
            names.add(name)
        for name in self._names(OPENED, part):
            if name not in names:
                self._findings.altered(f"{OPENED}/{part}/{name}: has no line in {OPENINGS}")

    def _opens(self, part: str, name: str, salt: bytes, id_: str) -> bool:
        digest = hashlib.sha256(salt)
        try:
            for piece in self._source.pieces(OPENED, part, name):
                digest.update(piece)
        except ProofError as error:
            self._findings.altered(f"{OPENED}/{part}/{name}: {error}")
            return False
        if digest.hexdigest() != id_:
            self._findings.altered(f"{OPENED}/{part}/{name}: is not what was recorded")
            return False
        return True

    def _count_opened(self) -> None:
        for name in self._names(OPENED):
            if name not in PARTS:
                self._findings.altered(f"{OPENED}/{name}: is no part of an export")
        if self._expected is None:
            for path, look in ((OPENED, self._source.names), (OPENINGS, self._source.open)):
                try:
                    found = look(path)
                except Missing:
                    continue
                if isinstance(found, int):
                    os.close(found)
                self._findings.altered(f"{path}: is there, but the manifest says that the export has no plaintexts")
        elif self.opened != self._expected:
            self._findings.altered(f"{OPENED}: has {self.opened} plaintexts, the manifest says {self._expected}")

    def _check_reference(self, each: Reference) -> None:
        found = self._hash(each.id)
        if found is None:
            if each.subject not in self._erased:
                self._findings.incomplete(f"payload {each.id} of entry {each.place} is missing")
        elif (found[0].hex(), found[1]) != (each.digest, each.size):
            self._findings.altered(f"{_path(each.id)}: is not the payload that entry {each.place} names")

    def _check_lists(self) -> None:
        try:
            descriptor = self._source.open(LISTS)
        except Missing:
            descriptor = None
        except ProofError as error:
            self._findings.altered(str(error))
            descriptor = None
        try:
            if descriptor is not None:
                self._index_lists()
            for part in PARTS:
                self._check_lists_of(part, descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _index_lists(self) -> None:
        offset = number = 0
        try:
            for line in self._source.lines(LISTS):
                number += 1
                made = decode_json(line, ContentList)
                if not all(CONTENT_ID.fullmatch(id_) for id_ in (made.id, *made.items)):
                    raise ProofError("an id is malformed")
                self._lists.put(made.id, ListPlace(made.id, number, offset, len(line)))
                offset += len(line) + 1
        except ProofError as error:
            self._findings.altered(f"{LISTS}:{number}: {error}")

    def _check_lists_of(self, part: str, descriptor: int | None) -> None:
        places: dict[str, ListPlace] = {}
        for place in self._lists.get(part):
            if place.id in places:
                self._findings.altered(f"{LISTS}:{place.line}: list {place.id} is there twice")
            places[place.id] = place
        resolved: dict[str, Resolved] = {}
        for each in self._list_references.get(part):
            place_of = places.get(each.id)
            if place_of is None or descriptor is None:
                if each.subject not in self._erased:
                    self._findings.incomplete(f"payload list {each.id} of entry {each.place} is missing")
                continue
            if each.id not in resolved:
                resolved[each.id] = self._resolve(place_of, descriptor)
            self._check_list(each, resolved[each.id], place_of.line)
        for id_, place in places.items():
            if id_ not in resolved:
                self._findings.altered(f"{LISTS}:{place.line}: list {id_} belongs to no entry of the export")

    def _resolve(self, place: ListPlace, descriptor: int) -> Resolved:
        """Read a list and hash its items. Each item counts as known to the export."""
        try:
            line = os.pread(descriptor, place.length, place.offset)
            items = decode_json(line, ContentList).items
        except (OSError, ProofError):
            self._findings.altered(f"{LISTS}:{place.line}: cannot be read a second time")
            return Resolved(0, 0, "")
        digest, present = SETTLED_START, 0
        if self._expected is not None and _named(items) == place.id:
            for id_ in items:
                self._bound.put(id_, id_)
        for id_ in items:
            self._items.put(id_, id_)
            found = self._hash(id_)
            if found is not None:
                present += 1
                digest = hashlib.sha256(digest + found[0]).digest()
        return Resolved(len(items), present, digest.hex() if present == len(items) else "")

    def _check_list(self, each: Reference, found: Resolved, line: int) -> None:
        if found.count != each.size or (found.digest and found.digest != each.digest):
            self._findings.altered(f"{LISTS}:{line}: list {each.id} is not the one that entry {each.place} names")
        elif not found.digest and each.subject not in self._erased:
            lacking = found.count - found.present
            self._findings.incomplete(
                f"payload list {each.id} of entry {each.place}: {lacking} of {found.count} payloads are missing, "
                "and the others cannot be checked"
            )
        elif not found.digest and found.present:
            self._findings.incomplete(
                f"payload list {each.id} of entry {each.place} was erased in part, and the rest cannot be checked"
            )

    def _hash(self, id_: str) -> tuple[bytes, int] | None:
        """SHA-256 and size of a ciphertext; None if it is not there, or cannot be read."""
        if id_ in self._hashes:
            return self._hashes[id_]
        digest, size = hashlib.sha256(), 0
        found: tuple[bytes, int] | None = None
        try:
            for piece in self._source.pieces(CONTENTS, id_[:2], f"{id_}.bin"):
                digest.update(piece)
                size += len(piece)
            found = (digest.digest(), size)
        except Missing:
            pass
        except ProofError as error:
            self._findings.altered(str(error))
        if len(self._hashes) >= _HASHES_KEPT:
            self._hashes.clear()
        self._hashes[id_] = found
        return found

    def _names(self, *parts: str) -> list[str]:
        try:
            return self._source.names(*parts)
        except Missing:
            return []
        except ProofError as error:
            self._findings.altered(str(error))
            return []


def _named(items: list[str]) -> str:
    """The id of the list of these, hex; "" where an item's id cannot be one of its items."""
    name = b""
    for item in items:
        if len(item) != 2 * ID_BYTES or CONTENT_ID.fullmatch(item) is None:
            return ""
        name = list_id(name, bytes.fromhex(item))
    return name.hex()


def _path(id_: str) -> str:
    return f"{CONTENTS}/{id_[:2]}/{id_}.bin"
