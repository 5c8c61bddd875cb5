"""Random histories of keys: an honest one verifies from every key, and none that a thief made from an old key does."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.ledger.proof.note import Ed25519Signer
from tests.unit.ledger_proof.exports import E1, Log, check, statement

KEYS = [Ed25519Signer("cell.example", bytes([number]) * 32) for number in range(6)]
THIEF = Ed25519Signer("cell.example", b"t" * 32)
STEP = 100


def history(steps: list[str], keys: list[Ed25519Signer]) -> Log:
    """`entry`, `sign` or `rotate`, one each `STEP`; signed at the end."""
    log = Log(signers=[keys[0]])
    log.nodes = {"node_a": 1}
    log.begin(E1, "node_a", 1)
    log.checkpoint(2)
    at, used = STEP, 1
    for step in steps:
        at += STEP
        if step == "entry":
            log.entry(E1, at)
            continue
        log.watermarks(at)
        if step == "rotate" and used < len(keys):
            log.rotate(keys[used], at)
            used += 1
        else:
            log.checkpoint(at)
    log.watermarks(at + STEP)
    log.checkpoint(at + STEP)
    return log


STEPS = st.lists(st.sampled_from(["entry", "entry", "sign", "rotate"]), max_size=14)


@given(STEPS)
@example(["rotate", "entry", "rotate", "entry"])
@settings(max_examples=60, deadline=None)
def test_an_honest_history_verifies_from_every_key(steps: list[str]) -> None:
    log = history(steps, KEYS)
    with tempfile.TemporaryDirectory() as folder:
        made = log.export(Path(folder) / "out", from_ns=3, to_ns=log.checkpoints[-1].at)
        used = len(log.rotations) + 1
        for key in KEYS[:used]:
            report = check(made, keys=[key.verifier_key])
            assert (report.verdict, report.problems) == ("complete", []), (steps, report)
        if used < len(KEYS):
            assert check(made, keys=[KEYS[used].verifier_key]).verdict == "altered"


@given(STEPS, st.integers(0, 4), st.sampled_from(["sign", "rotate", "both"]), st.integers(0, 3), st.booleans())
@example(["entry", "rotate", "entry"], 0, "sign", 0, False)
@example(["entry", "rotate", "entry"], 0, "sign", 1, True)
@example(["entry", "rotate", "entry"], 0, "rotate", 1, False)
@settings(max_examples=150, deadline=None)
def test_a_thief_of_a_replaced_key_makes_nothing_that_the_last_key_vouches_for(
    steps: list[str], stolen: int, how: str, more: int, dated_back: bool
) -> None:
    """The thief has the true log up to its end and every replaced key, and adds entries in whichever way."""
    log = history(["rotate", *steps], KEYS)
    old = stolen % len(log.rotations)
    changed_at = [int(each.split("\nat ")[1].split("\n")[0]) for each, _ in log.rotations]
    last = KEYS[len(log.rotations)]
    at = changed_at[old] - 1 if dated_back else log.checkpoints[-1].at + STEP
    if dated_back:
        log.checkpoints = [each for each in log.checkpoints if each.at < at]
    for number in range(more + 1):
        log.entry(E1, log.open[E1].watermark + number)
    log.watermarks(10**6)
    log.signers = [KEYS[old]]
    if how in ("rotate", "both"):
        log.signers = [KEYS[old], THIEF]
        note = log.checkpoint(at).note
        log.rotations.append((statement(KEYS[old], THIEF, at, log.origin), note))
        log.signers = [THIEF]
        at += 1
    log.checkpoint(at)
    with tempfile.TemporaryDirectory() as folder:
        made = log.export(Path(folder) / "out", from_ns=3, to_ns=10**5)
        assert check(made, keys=[last.verifier_key]).verdict == "altered"
