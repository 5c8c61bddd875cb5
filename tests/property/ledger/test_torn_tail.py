"""Cut an epoch at every byte, flip every byte: a reader gives a true prefix, or says where the damage is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import LogCorrupt
from interlock.ledger.folder import segment_path
from interlock.ledger.format import HEADER_BYTES, decode, encode, frame, mark, record_call, record_kind, whole_frames
from interlock.ledger.reader import Stored, read_epoch
from interlock.ledger.recovery import scan_epoch
from interlock.types.record import Chunk, Record
from tests.unit.ledger.support import durable, intent, open_log, outcome, refusal, run, written


@pytest.fixture(scope="module")
def small_epoch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Stored]]:
    """An epoch of five batches; after the third everything before it was vouched for by a mark."""
    folder = tmp_path_factory.mktemp("small")

    async def main() -> str:
        log = open_log(folder)
        log.append(refusal(1))
        log.sync()
        log.append_chunk(2, 0, "one", b"")
        log.sync()
        log.append_chunk(2, 1, "two", b"\xff\xff\xff\xff")
        log.append(outcome(2))
        await written(log)
        log.append_chunk(3, 0, "", b"\xff" * 40)
        await written(log)
        log.abandon()
        return log.epoch

    epoch = run(main)
    return folder, epoch, list(read_epoch(folder, epoch))


def test_every_cut_leaves_a_true_prefix(small_epoch: tuple[Path, str, list[Stored]], tmp_path: Path) -> None:
    folder, epoch, stored = small_epoch
    data = segment_path(folder, epoch, 0).read_bytes()
    ends = [each.offset for each in stored[1:]] + [len(data)]
    (tmp_path / epoch).mkdir()
    path = segment_path(tmp_path, epoch, 0)
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        got = list(read_epoch(tmp_path, epoch))
        # Marks lie between frames, so a frame may end before the next one begins.
        assert got == stored[: len(got)]
        assert len(got) == len(stored) or cut < ends[len(got)]
        scan = scan_epoch(tmp_path, epoch)
        assert not scan.damaged and scan.last_seq == (got[-1].seq if got else 0)


@pytest.mark.parametrize("filler", [b"\x00", b"\xff", b"\x11"])
def test_every_cut_with_rubbish_after_it_leaves_a_true_prefix(
    small_epoch: tuple[Path, str, list[Stored]], tmp_path: Path, filler: bytes
) -> None:
    folder, epoch, stored = small_epoch
    data = segment_path(folder, epoch, 0).read_bytes()
    (tmp_path / epoch).mkdir()
    path = segment_path(tmp_path, epoch, 0)
    for cut in range(len(data)):
        path.write_bytes(data[:cut] + filler * 64)
        got = list(read_epoch(tmp_path, epoch))
        assert got == stored[: len(got)]


def test_every_flipped_byte_is_noticed(small_epoch: tuple[Path, str, list[Stored]], tmp_path: Path) -> None:
    """Before the last mark: damage, with its place. After it: a tail nobody was promised. Never a wrong record."""
    folder, epoch, stored = small_epoch
    data = bytearray(segment_path(folder, epoch, 0).read_bytes())
    vouched = next(each for each in stored if isinstance(each.record, Chunk) and each.record.text == "two")
    last_mark = data.rfind(b"\xff\xff\xff\xff", 0, vouched.offset)
    while data[last_mark - 1] == 0xFF:  # the mark's checksum begins like the mark itself, once in 256 times
        last_mark -= 1
    (tmp_path / epoch).mkdir()
    path = segment_path(tmp_path, epoch, 0)
    for at in range(HEADER_BYTES, len(data)):
        data[at] ^= 0x55
        path.write_bytes(data)
        got: list[Stored] = []
        try:
            got.extend(read_epoch(tmp_path, epoch))
            assert at >= last_mark
        except LogCorrupt as e:
            assert e.param is not None and e.param.startswith("0:") and int(e.param[2:]) <= at
            assert at < last_mark
        assert got == stored[: len(got)]
        data[at] ^= 0x55


def test_damage_in_a_segment_with_a_successor_is_never_a_torn_tail(tmp_path: Path) -> None:
    async def main() -> str:
        log = open_log(tmp_path, segment_bytes=1000)
        for call in range(1, 5):
            await durable(log, log.append(intent(call, body=b"x" * 1000)))
        log.abandon()
        return log.epoch

    epoch = run(main)
    stored = list(read_epoch(tmp_path, epoch))
    last = max(each.segment for each in stored)
    assert last >= 2
    for segment in range(last):
        path = segment_path(tmp_path, epoch, segment)
        whole = path.read_bytes()
        for cut in (1, 17, len(whole) - HEADER_BYTES, len(whole)):
            path.write_bytes(whole[: len(whole) - cut])
            with pytest.raises(LogCorrupt):
                list(read_epoch(tmp_path, epoch))
        path.unlink()
        with pytest.raises(LogCorrupt, match="missing"):
            list(read_epoch(tmp_path, epoch))
        path.write_bytes(whole)
    shutil.move(segment_path(tmp_path, epoch, last), segment_path(tmp_path, epoch, last + 1))
    with pytest.raises(LogCorrupt, match="missing"):
        list(read_epoch(tmp_path, epoch))


RECORDS = st.one_of(
    st.builds(
        Chunk,
        call=st.integers(0, 2**63),
        index=st.integers(0, 2**32),
        text=st.text(),
        raw=st.binary(max_size=300),
    ),
    st.builds(intent, st.integers(0, 2**63), body=st.binary(max_size=300)),
    st.builds(outcome, st.integers(0, 2**63), body=st.binary(max_size=300)),
    st.builds(refusal, st.integers(0, 2**63)),
)


@given(records=st.lists(RECORDS, max_size=8), seq=st.integers(1, 2**63), cut=st.integers(0, 400))
@settings(max_examples=100, deadline=None)
def test_frames_are_told_apart_by_their_bytes_alone(records: list[Record], seq: int, cut: int) -> None:
    bodies = [encode(record) for record in records]
    for record, body in zip(records, bodies, strict=True):
        assert decode(body) == record
        assert record_kind(body) == type(record).__struct_config__.tag
        assert record_call(body) == record.call  # type: ignore[union-attr]
    data = b"".join(mark(seq, 7) + frame(seq + at, body) for at, body in enumerate(bodies))
    whole, last, frames = whole_frames(data[: max(len(data) - cut, 0)])
    assert frames == [(seq + at, body) for at, body in enumerate(bodies)][: len(frames)]
    assert last == (frames[-1][0] if frames else 0)
    if cut == 0:
        assert whole == len(data) and len(frames) == len(bodies)
