"""The native part takes nothing that the code in Python does not take, and gives the same. That code is the oracle."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.ledger.proof import entry
from interlock.ledger.proof.entry import Block, Rules, scan
from interlock.native.scan import Heads, Native
from tests.native import expected, use, variants
from tests.unit.ledger_proof.test_shape import LEAVES, TREE

RULES = Rules(TREE, 2_000, 1 << 62, payloads=False)
EPOCHS = [f"01hzzzzzzzaaaaa{each}" for each in range(9)]
NATIVE: list[Native | None] = [*variants()] or [None]


@pytest.fixture(params=NATIVE, ids=lambda each: each.name if each else "none")
def native(request: pytest.FixtureRequest) -> Native:
    if request.param is None:
        pytest.skip(expected() or "test_library fails for it")
    made: Native = request.param
    return made


def _scan(native: Native | None, start: int, data: bytes, rules: Rules = RULES) -> tuple[Block, list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        use(patch, native)
        block = scan(start, data, rules)
        return block, list(block.epochs)


def _same(native: Native, start: int, data: bytes, rules: Rules = RULES) -> Block:
    block, order = _scan(None, start, data, rules)
    assert _scan(native, start, data, rules) == (block, order)
    return block


def _honest(rng: random.Random, entries: int, epochs: int = 3) -> list[bytes]:
    """Entries of several epochs and all kinds, as the shipper and the control process write them."""
    numbers, lines = {epoch: count(rng.randrange(1, 50)) for epoch in EPOCHS[:epochs]}, []
    kinds = [kind for kind in LEAVES if kind != "erasure"]
    for step in range(entries):
        epoch = rng.choice(EPOCHS[:epochs])
        at = 1_795_868_551_686_779_448 + 1_000 * step + rng.randrange(3_000) if rng.random() < 0.9 else step
        head = {"epoch": epoch, "n": next(numbers[epoch]), "at": at}
        lines.append(msgspec.json.encode({**LEAVES[rng.choice(kinds)], **head}, order="sorted") + b"\n")
    return lines


@pytest.mark.parametrize("kind", LEAVES)
def test_entries_of_every_kind_are_taken(native: Native, kind: str) -> None:
    """But those of erasures, which are looked at. One that is not taken costs four times as much."""
    lines = [
        msgspec.json.encode({**LEAVES[kind], "epoch": EPOCHS[0], "n": n}, order="sorted") + b"\n" for n in (1, 2, 3)
    ]
    data = b"".join(lines)
    assert native.heads(data, 0, TREE, 0, 9).size == (0 if kind == "erasure" else len(data))
    assert not _same(native, 5, data).problems


@pytest.mark.parametrize("seed", range(8))
def test_an_honest_log_is_taken_whole(native: Native, seed: int) -> None:
    rng = random.Random(seed)
    data = b"".join(_honest(rng, 300, epochs=1 + seed))
    assert native.heads(data, 0, TREE, 0, 9).size == len(data)
    block = _same(native, rng.randrange(1_000), data)
    assert (block.problems, len(block.epochs)) == ([], 1 + seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "_read", None)  # what reads entries in Python
        assert _scan(native, block.start, data) == (block, list(block.epochs))


_NUMBERS = [b"-0", b"00", b"01", b"-1", b"1.0", b"1e2", b"1E2", b"9223372036854775807", b"9223372036854775808", b"+1"]
_NUMBERS += [b"18446744073709551615", b"18446744073709551616", b"-9223372036854775808", b"-9223372036854775809", b"-"]
_NUMBERS += [b"9" * 30, b"0", b"1", b"true", b"false", b"null", b"NaN", b"{}", b"[]", b'""', b"nul", b"truefalse", b""]
_PIECES = [bytes([each]) for each in range(256)]
_PIECES += [
    b" ",
    b"\t",
    b"\\u0061",
    b"\\/",
    b"\\\\",
    b'\\"',
    "é".encode(),
    "\U0001f600".encode(),
    b"\xed\xa0\x80",
    b"\xc3",
]
_PIECES += [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b'"a":1,',
    b',"zz":1',
    b'"":0,',
    b"[[]]",
    b'{"a":{}}',
    b"\x7f",
    b"\n\n",
]


def _insert(rng: random.Random, line: bytes) -> bytes:
    at = rng.randrange(len(line) + 1)
    return line[:at] + rng.choice(_PIECES) + line[at:]


def _replace(rng: random.Random, line: bytes) -> bytes:
    at = rng.randrange(len(line))
    return line[:at] + rng.choice(_PIECES) + line[at + 1 :]


def _cut_out(rng: random.Random, line: bytes) -> bytes:
    at = rng.randrange(len(line))
    return line[:at] + line[at + rng.choice((1, 1, 2, 9, 100, 10_000)) :]


def _double(rng: random.Random, line: bytes) -> bytes:
    at = rng.randrange(len(line))
    end = at + rng.choice((1, 2, 9, 100))
    return line[:end] + line[at:end] + line[end:]


def _number(rng: random.Random, line: bytes) -> bytes:
    """A value that is an integer, replaced."""
    at = rng.choice([place for place in range(len(line)) if line[place - 1 : place] == b":"] or [0])
    end = next((place for place in range(at, len(line)) if line[place] in b",}]"), at)
    return line[:at] + rng.choice(_NUMBERS) + line[end:]


def _fields(rng: random.Random, line: bytes) -> bytes:
    """Two fields in the other order, one twice, one more, one less: at the top or in an object."""
    value = msgspec.json.decode(line)
    if type(value) is not dict or not value:
        return line
    inner = [each for each in value.values() if type(each) is dict and each]
    target = rng.choice([value, value, *inner])
    names = sorted(target)
    one, other = rng.choice(names), rng.choice(names)
    made = {name: target[name] for name in names}
    how = rng.randrange(4)
    if how == 0:
        made = {
            {one: other, other: one}.get(name, name): target[{one: other, other: one}.get(name, name)] for name in names
        }
    elif how == 1:
        del made[one]
    elif how == 2:
        made = dict(sorted({**made, one + rng.choice(("", "a", "A", "~", "_", "\u00e9", "0" * 9)): 1}.items()))
    text = msgspec.json.encode(made)
    if how == 3:
        field = msgspec.json.encode({one: target[one]})[1:-1]
        text = text.replace(field, field + b"," + field, 1)
    return text if target is value else line.replace(msgspec.json.encode(target, order="sorted"), text, 1)


def _values(rng: random.Random, line: bytes) -> bytes:
    """Fields with values that entries do not have, written canonically."""
    value = msgspec.json.decode(line)
    if type(value) is not dict:
        return line
    name = rng.choice([*value, "at", "n", "v", "epoch", "tree", "kind", "z", "a", "epochs", "longer than eight"])
    strange: list[Any] = [
        0,
        1,
        -1,
        2,
        True,
        False,
        None,
        "",
        "erasure",
        "e" * 16,
        "é" * 16,
        "é" * 8,
        [],
        {},
        [1, [2, {}]],
    ]
    strange += [
        {"b": {"a": [{"c": None}]}},
        1 << 63,
        (1 << 63) - 1,
        -(1 << 63),
        1 << 64,
        0.5,
        "\x7f",
        "\x00",
        "a\\b",
        '"',
    ]
    return msgspec.json.encode({**value, name: rng.choice(strange)}, order="sorted")


def _nested(rng: random.Random, line: bytes) -> bytes:
    deep = rng.choice((2, 13, 14, 15, 16, 17, 20, 31, 32, 33, 100, 5_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return line[:-1] + b',"zz":' + opening * deep + b"1" + closing * rng.choice((deep, deep, deep - 1, deep + 1)) + b"}"


CHANGES: list[Callable[[random.Random, bytes], bytes]] = [
    *(_insert, _replace, _cut_out, _double, _number, _fields, _values, _nested),
]


def _changed(rng: random.Random, lines: list[bytes]) -> list[bytes]:
    """Lines of which some were changed, doubled, left out, exchanged or cut."""
    made = list(lines)
    for _ in range(rng.randrange(1, 4)):
        at, how = rng.randrange(len(made)), rng.randrange(12)
        if how == 0 and len(made) > 1:
            del made[at]
        elif how == 1:
            made.insert(at, rng.choice((made[at], b"\n", b"{}\n", b"\x00\n", b"[" * 50_000 + b"\n", b'"\n', b'{"\n')))
        elif how == 2:
            other = rng.randrange(len(made))
            made[at], made[other] = made[other], made[at]
        else:
            line = made[at][:-1]
            try:
                made[at] = rng.choice(CHANGES)(rng, line) + b"\n" if line else b"\n"
            except (
                msgspec.MsgspecError,
                UnicodeDecodeError,
                RecursionError,
            ):  # it was changed before, and is no JSON any more
                made[at] = _replace(rng, line) + b"\n"
    return made


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_changed_the_same_is_found(native: Native, seed: int) -> None:
    rng = random.Random(seed)
    wrong = 0
    for _ in range(150):
        data = b"".join(_changed(rng, _honest(rng, rng.randrange(1, 30))))
        wrong += bool(_same(native, rng.randrange(1 << 40), data).problems)
    assert wrong > 50


@pytest.mark.parametrize("seed", range(4))
def test_a_line_that_has_the_shape_of_another_is_read_as_strictly(native: Native, seed: int) -> None:
    """Each line is compared with one before: of two that differ in one place, the second is the changed one."""
    rng = random.Random(seed)
    leaf = LEAVES[rng.choice([kind for kind in LEAVES if kind not in {"erasure", "interrupted"}])]
    first, second, third = (
        msgspec.json.encode({**leaf, "epoch": EPOCHS[0], "n": n}, order="sorted") + b"\n" for n in (1, 2, 3)
    )
    wrong = 0
    for at in range(len(second) - 1):
        for piece in (b"", rng.choice(_PIECES), rng.choice(_NUMBERS), rng.choice((b"0", b"1", b"a", b'"', b"-", b"}"))):
            changed = second[:at] + piece + second[at + 1 :]
            wrong += bool(_same(native, 0, first + changed + third).problems)
    assert wrong > len(second)


@pytest.mark.parametrize("pieces", [64, 4_096])
def test_pieces_of_any_size_make_no_difference(native: Native, pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlock.ledger.proof.entry._PIECE_BYTES", pieces)
    rng = random.Random(pieces)
    for _ in range(100):
        _same(native, rng.randrange(1 << 40), b"".join(_changed(rng, _honest(rng, 20))))


def test_a_log_that_begins_again_costs_one_look_more(native: Native) -> None:
    """What does not follow on what came before is read by the code in Python, and not by the other time and again."""
    rng = random.Random(1)
    lines = _honest(rng, 400, epochs=1)
    odd = msgspec.json.encode({**msgspec.json.decode(lines[0]), "zz": "\u00e9"}, order="sorted") + b"\n"
    looks: list[int] = []

    heads = native.heads

    def counted(data: bytes, offset: int, *rest: Any) -> Heads:
        looks.append(offset)
        return heads(data, offset, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "heads", counted)
        block, _ = _scan(native, 0, odd + b"".join(lines * 3))
    assert len(block.problems) >= 3
    assert len(looks) <= 6


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.binary(max_size=200) | st.text('{}[]",:0123456789-etrufalsn\\ .', max_size=80).map(str.encode), max_size=8
    ),
    st.sampled_from(NATIVE),
)
def test_nothing_makes_it_crash(lines: list[bytes], native: Native | None) -> None:
    if native is None:
        pytest.skip(expected() or "test_library fails for it")
    _same(native, 0, b"".join(line + b"\n" for line in lines))


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 65), 1 << 65) | st.text(max_size=9) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["at", "a", "w", "z", "epoch", "vv", "é"]), _json, max_size=4), max_size=4
    ),
    st.sampled_from(NATIVE),
)
def test_any_fields_are_read_the_same(more: list[dict[str, Any]], native: Native | None) -> None:
    """Canonical, and in the order in which they come."""
    if native is None:
        pytest.skip(expected() or "test_library fails for it")
    head = {"at": 3, "epoch": EPOCHS[0], "kind": "call", "tree": TREE, "v": 1}
    values = [{**head, "n": n, **each} for n, each in enumerate(more, 1)]
    for encoder in (msgspec.json.Encoder(order="sorted"), msgspec.json.Encoder()):
        _same(native, 0, encoder.encode_lines(values))
