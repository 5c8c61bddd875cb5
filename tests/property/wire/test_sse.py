"""However a stream is cut, the same events come out of it."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.wire.sse import Splitter, data_of

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.one_of(
    st.text(alphabet="abä \U0001f600:", max_size=8).map(lambda t: b"data: " + t.encode()),
    st.sampled_from([b"data", b"data:", b": comment", b"event: x", b"id:1", b"data: [DONE]", b'data: {"a":1}']),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Lines with any line ends, mixed, with empty lines between, perhaps not ended."""
    end = draw(ENDS)
    out = b""
    for _ in range(draw(st.integers(0, 6))):
        for line in draw(st.lists(LINES, max_size=3)):
            out += line + (end if draw(st.booleans()) else draw(ENDS))
        out += end if draw(st.booleans()) else draw(ENDS)
    return out + draw(st.sampled_from([b"", b"data: x", b"\r", b"\n", b"da"]))


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    splitter = Splitter(10_000)
    found: list[bytes] = []
    at = 0
    for cut in [*sorted({c for c in cuts if c < len(stream)}), len(stream)]:
        found += splitter.feed(stream[at:cut])
        at = cut
    return found + splitter.finish()


def by_the_standard(stream: bytes) -> list[bytes]:
    """Data of each event, read line by line as WHATWG HTML section 9.2.6 says."""
    found: list[bytes] = []
    lines: list[bytes] = []
    parts = re.split(rb"\r\n|\n|\r", stream)
    for line in parts[:-1]:  # what follows the last line end is no whole line
        if not line:
            if lines:
                found.append(b"\n".join(lines))
            lines = []
        elif line.startswith(b"data:"):
            lines.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            lines.append(b"")
    return found


@settings(max_examples=200, deadline=None)
@given(streams(), st.lists(st.integers(0, 120), max_size=20))
def test_cutting_changes_nothing(stream: bytes, cuts: list[int]) -> None:
    whole = split(stream, [])
    assert split(stream, cuts) == whole
    assert split(stream, list(range(len(stream)))) == whole
    assert stream.startswith(b"".join(whole))


@settings(max_examples=200, deadline=None)
@given(streams())
def test_events_are_those_of_the_standard(stream: bytes) -> None:
    found = [data for event in split(stream, []) if (data := data_of(event)) is not None]
    assert found == by_the_standard(stream)
