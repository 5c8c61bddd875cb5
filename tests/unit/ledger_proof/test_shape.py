"""Entries that are read many at a time: those that Interlock writes, and no others than canonical ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from interlock.ledger.control_entry import change_leaf
from interlock.ledger.entry import call_entry, encode_leaf, energy_entry
from interlock.ledger.fold import records_of
from interlock.ledger.proof import shape
from interlock.ledger.proof.entry import Rules, decode_leaf, scan
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.reader import CallRecords
from interlock.ledger.vault import SubjectKey
from interlock.types.decision import RouteDecision
from interlock.types.record import Comparison, EnergyMeasured, Intent, Judgement, StepEnd
from interlock.types.request import Target, TargetStep
from interlock.types.usage import Cost, Energy, Usage
from tests.unit.ledger.support import attempt, intent, outcome, refusal
from tests.unit.ledger.test_control_entry import ROW

EPOCH = "e" * 16
KEY = SubjectKey(bytes(range(32)))
TREE = "ten_1"


def _call(*records: Any, key: SubjectKey | None = KEY) -> dict[str, Any]:
    return call_entry(records_of(EPOCH, 1, list(records)), 5_000, key).leaf


def _intent(**change: Any) -> Intent:
    body = b'{"model":"m","messages":[{"role":"user","content":"one"}],"tools":[1],"temperature":1}'
    made: Intent = msgspec.structs.replace(intent(1, body=body), **change)
    return made


LEAVES = {
    "call": _call(_intent(receipt="ab" * 32), attempt(1), outcome(1)),
    "shadow": _call(_intent(shadow_of="req_1"), attempt(1), outcome(1)),
    "compared": _call(
        _intent(shadow_of="req_1"),
        attempt(1),
        msgspec.structs.replace(
            outcome(1), compared=Comparison(True, 1000, 5, 5, False, False, False, True, False, False)
        ),
    ),
    "tried": _call(
        _intent(route=RouteDecision("balanced", (), (), (), 3, 42, best="local::m")), attempt(1), outcome(1)
    ),
    "judge": _call(
        _intent(judge_of="req_1", judge_against="req_2"),
        attempt(1),
        msgspec.structs.replace(outcome(1), judged=Judgement(1, preferred="tie")),
    ),
    "control": _call(
        _intent(judge_of="req_1"),
        attempt(1),
        msgspec.structs.replace(outcome(1), judged=Judgement(1, 700_000, control=True)),
    ),
    "challenger": _call(_intent(challenger_of="req_1"), attempt(1), outcome(1)),
    "cascade": _call(
        _intent(target=Target("alias", alias="a", steps=(TargetStep("m"), TargetStep("n")))),
        attempt(1),
        StepEnd(1, 0, 0, 5, "m", True, ("json:passed",), ("stop",), Usage(1, 0, 2), Cost(3, "list"), Energy(4)),
        outcome(1),
    ),
    "interrupted": _call(_intent(), attempt(1)),
    "erased": {**_call(_intent(), attempt(1), outcome(1), key=None), "erased": True},
    "refusal": call_entry(CallRecords(EPOCH, 1, (), refusal=refusal(1)), 5_000, KEY).leaf,
    "energy": energy_entry(EnergyMeasured(1, 5, 7, "rapl"), EPOCH, TREE, 5_000).leaf,
    "erasure": {
        "v": 1,
        "tree": TREE,
        "kind": "erasure",
        "at": 5,
        "subject": "prn_1",
        "keys": ["a", "b"],
        "by": "prn_2",
    },
    "change": change_leaf(TREE, ROW, 5_000),
}


def _line(leaf: dict[str, Any], n: int = 1) -> bytes:
    return encode_leaf({**leaf, "epoch": EPOCH, "n": n}) + b"\n"


@pytest.mark.parametrize("kind", LEAVES)
def test_entries_of_every_kind_are_read_at_once(kind: str) -> None:
    line = _line(LEAVES[kind])
    read = shape.read(line)
    assert read is not None, "the shape has fallen behind what entries hold: verifying becomes slow"
    assert [msgspec.to_builtins(each) for each in read] == [decode_leaf(line[:-1])]
    assert shape.read(line * 3) == read * 3


def _rewritten(line: bytes) -> Iterator[bytes]:
    """The same value, or nearly, in other bytes."""
    for at in range(len(line)):
        for each in (b" ", b"\n", b"0", b"-", b".0", b"e0", b'"', b"\\u0061", b"\xff", b"\x00"):
            yield line[:at] + each + line[at:]
        yield line[:at] + line[at + 1 :]
        yield line[:at] + b"\\u%04x" % line[at] + line[at + 1 :]
    value, rng = msgspec.json.decode(line), random.Random(5)
    for _ in range(200):
        yield msgspec.json.encode(_shuffled(value, rng))
    for name, each in value.items():
        field = msgspec.json.encode({name: each}, order="sorted")[1:-1]
        at = line.index(field)
        yield line[:at] + field + b"," + line[at:]
        yield line[:at] + b'"' + name.encode() + b'":null,' + line[at:]


def _shuffled(value: Any, rng: random.Random) -> Any:
    if type(value) is dict:
        names = rng.sample(sorted(value), len(value))
        return {name: _shuffled(value[name], rng) for name in names}
    return [_shuffled(each, rng) for each in value] if type(value) is list else value


@pytest.mark.parametrize("kind", ["call", "refusal", "change"])
def test_what_is_read_at_once_is_canonical(kind: str) -> None:
    """Whatever is taken is what reading it alone takes, and is the same value there."""
    line = _line(LEAVES[kind])[:-1]
    taken = refused = 0
    for made in _rewritten(line):
        read = shape.read(made + b"\n")
        if read is None:
            refused += 1
            continue
        taken += 1
        assert [decode_leaf(each) for each in made.split(b"\n")] == [msgspec.to_builtins(each) for each in read]
    assert taken > 50
    assert refused > 1_000


def test_one_line_of_another_shape_among_many_is_told_from_the_rest() -> None:
    """Lines before and after it are read as they would be without it; its own fault has its place."""
    lines = [_line(LEAVES["call"], n) for n in range(1, 121)]
    strange = _line({**LEAVES["call"], "zz": {"b": 1, "a": [None]}}, 60)
    rules = Rules(TREE, 0, 10_000, payloads=True)
    expected = scan(7, b"".join(lines), rules)
    assert (expected.problems, expected.in_range, len(expected.references)) == ([], 120, 120 * 4)
    lines[59] = strange
    found = scan(7, b"".join(lines), rules)
    assert found._replace(roots=expected.roots) == expected
    assert found.roots != expected.roots
    lines[59] = strange[:-2] + b" }\n"
    with pytest.raises(ProofError):
        decode_leaf(lines[59][:-1])
    problems = scan(7, b"".join(lines), rules).problems
    assert problems == [
        (66, "is not written as canonical JSON"),
        (67, f"is number 61 of epoch {EPOCH}, after number 59"),
    ]


def _strange(leaf: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The entry with something of what is looked at changed or left out; nothing has another type."""
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(leaf))
    for where in [made, made.get("who", {}), *made.get("contents", [])]:
        for name in sorted(
            where.keys()
            & {"subject", "request", "receipt", "contents", "who", "id", "list", "digest", "sha256", "bytes", "count"}
        ):
            old, how = where[name], rng.randrange(12)
            if how == 0:
                del where[name]
            elif how == 1 and type(old) is str:
                where[name] = rng.choice(("", old[:-1], old.upper(), old + "\n", "req_1", "UNSET"))
            elif how == 1 and type(old) is int:
                where[name] = rng.choice((0, -1, (1 << 63) - 1, 1 << 63))
    return made


@pytest.mark.parametrize("seed", range(20))
def test_what_is_looked_at_is_the_same_in_every_shape(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """References, erasures, receipts and problems: of typed entries one way, of mappings another."""
    rng = random.Random(seed)
    kinds = [kind for kind in LEAVES if seed % 2 or kind != "erasure"]  # without one, entries are taken together
    leaves = [_strange(LEAVES[rng.choice(kinds)], rng) for _ in range(60)]
    data = b"".join(_line(leaf, n) for n, leaf in enumerate(leaves, 1))
    wanted = frozenset({str(leaf["request"]) for leaf in leaves if "request" in leaf})
    ways = [Rules(TREE, 0, 10_000, payloads, some) for payloads in (True, False) for some in (wanted, frozenset())]
    typed = [scan(3, data, rules) for rules in ways]
    monkeypatch.setattr(shape, "read", lambda _: None)
    assert typed == [scan(3, data, rules) for rules in ways]
    assert typed[0].references and typed[0].problems and typed[0].found
    assert [each.epochs[EPOCH].last for each in typed] == [60] * 4
