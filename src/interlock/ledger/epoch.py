"""Read the frames of one epoch, from segment to segment, also while its worker is writing.

What a reader may meet at the end of an epoch is a *torn tail*: bytes after the last whole frame of the last segment,
left by a crash. Nobody was ever told that they were durable, so they are not an error, only counted. Anything else
that is not a whole frame is damage, and raises LogCorrupt with its place: in a segment that has a successor (the
successor is made only when the one before is whole and durable), or before a mark that vouches for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from interlock.errors import LogCorrupt
from interlock.ledger.folder import first_segment, segment_path, segments
from interlock.ledger.segment import Frame, SegmentReader


class EpochReader:
    """Frames of one epoch in passes: each continues where the last stopped. Close it, or use it in a `with`.

    `from_segment` starts there without looking at the ones before; 0: with the first that is kept. `torn_bytes`: see
    `end` and `salvage`.
    """

    def __init__(self, folder: Path, epoch: str, *, from_segment: int = 0) -> None:
        from_segment = from_segment or first_segment(folder, epoch)
        self.epoch = epoch
        self.torn_bytes = 0
        self.last_seq: int | None = 0 if from_segment == 0 else None
        self._folder = folder
        self._index = from_segment
        self._segment: SegmentReader | None = None

    def __enter__(self) -> EpochReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the open segment. Harmless when repeated."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def frames(self) -> Iterator[Frame]:
        """All whole frames from where the last pass stopped up to what is written now.

        Raises LogCorrupt for damage that has a successor; call `end` for the rest.
        """
        while True:
            if self._segment is None and not self._open():
                return
            segment = self._segment
            assert segment is not None  # noqa: S101
            yield from self._pass(segment)
            if not self._path(self._index + 1).exists():
                return
            # This segment was finished before its successor was made: what this pass did not see is there now.
            yield from self._pass(segment)
            if not segment.stop.whole:
                raise self._damage(segment)
            self._next()

    def end(self) -> None:
        """Judge the place where the last pass stopped, if nobody writes: a torn tail is counted, damage raises."""
        later = [index for index in segments(self._folder, self.epoch) if index > self._index]
        if later and (self._segment is None or self._index + 1 not in later):
            missing = self._index if self._segment is None else self._index + 1
            raise LogCorrupt(f"Segment {missing} of epoch {self.epoch} is missing.", param=f"{missing}:0")
        segment = self._segment
        if segment is None or segment.stop.whole:
            return
        if segment.mark_after(segment.stop.offset + 1, segment.last_seq + 1) is not None:
            raise self._damage(segment)
        self.torn_bytes += segment.size() - segment.stop.offset

    def salvage(self) -> bool:
        """After LogCorrupt, go on behind the damage, at the next mark or segment; False when there is nothing more.

        What was skipped is counted in `torn_bytes`.
        """
        segment = self._segment
        if segment is not None:
            stop = segment.stop.offset
            mark = segment.mark_after(stop + 1, 0)
            self.torn_bytes += (segment.size() if mark is None else mark) - stop
            if mark is not None:
                segment.skip_to(mark)
                return True
        later = [index for index in segments(self._folder, self.epoch) if index > self._index]
        if not later:
            return False
        self._next()
        self._index = later[0]
        self.last_seq = None
        return True

    def _open(self) -> bool:
        path = self._path(self._index)
        try:
            self._segment = SegmentReader(path, epoch=self.epoch, segment=self._index, last_seq=self.last_seq)
        except FileNotFoundError:
            return False
        return True

    def _next(self) -> None:
        self.close()
        self._index += 1

    def _pass(self, segment: SegmentReader) -> Iterator[Frame]:
        yield from segment.frames()
        if segment.header is not None:
            self.last_seq = segment.last_seq

    def _path(self, index: int) -> Path:
        return segment_path(self._folder, self.epoch, index)

    def _damage(self, segment: SegmentReader) -> LogCorrupt:
        stop = segment.stop
        return LogCorrupt(
            f"{segment.path} is damaged at offset {stop.offset}: {stop.words}; restore it from a copy.",
            param=f"{self._index}:{stop.offset}",
        )
