"""The event splitter and what it takes for an event's data."""

from __future__ import annotations

import pytest

from interlock.errors import UpstreamError
from interlock.wire.sse import Splitter, data_of


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_one_byte_at_a_time_gives_the_same_events(end: bytes) -> None:
    stream = b"data: a" + end + end + b": comment" + end + end + b"event: x" + end + b"data:b" + end + b"data" + end * 2
    splitter = Splitter(1000)
    found = [event for n in range(len(stream)) for event in splitter.feed(stream[n : n + 1])] + splitter.finish()
    assert b"".join(found) == stream
    assert [data_of(event) for event in found] == [b"a", None, b"b\n"]


@pytest.mark.parametrize("piece", [b"d", b"\n", b"x", b":"])
def test_a_single_byte_is_no_event(piece: bytes) -> None:
    splitter = Splitter(1000)
    assert splitter.feed(piece) == []
    assert splitter.finish() == []


def test_an_event_that_was_not_ended_is_dropped() -> None:
    splitter = Splitter(1000)
    assert splitter.feed(b"data: a\n\ndata: b\n") == [b"data: a\n\n"]
    assert splitter.finish() == []


@pytest.mark.parametrize("cut", [1, 7, 4096])
@pytest.mark.parametrize("ended", [True, False])
def test_an_event_over_the_limit_is_refused_however_it_comes(cut: int, ended: bool) -> None:
    data = b"data: " + b"x" * 5000 + (b"\n\n" if ended else b"")
    splitter = Splitter(1024)
    with pytest.raises(UpstreamError) as caught:
        for n in range(0, len(data), cut):
            splitter.feed(data[n : n + cut])
    assert caught.value.code == "upstream_event_too_large"


def test_an_event_over_the_limit_in_one_piece_is_refused() -> None:
    for data in (b"data: " + b"x" * 5000 + b"\n\n", b"data: a\n\ndata: " + b"x" * 5000 + b"\r\n\r\n"):
        with pytest.raises(UpstreamError):
            Splitter(1024).feed(data)


def test_a_large_event_in_small_pieces_costs_no_second_look() -> None:
    splitter = Splitter(2_000_000)
    for _ in range(2000):
        assert splitter.feed(b"\r" * 0 + b"x" * 500) == []
    assert len(splitter.feed(b"\n\n")) == 1


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: x\r\n\r\n", b"x"),
        (b"data: x\r\r", b"x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"id: 1\ndata: a\nretry: 5\n\n", b"a"),
        (b"data\n\n", b""),
        (b": ping\n\n", None),
        (b"datum: x\n\n", None),
        (b"\n\n", None),
    ],
)
def test_data_of_an_event(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data
