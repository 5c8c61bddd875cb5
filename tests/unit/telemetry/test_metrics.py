"""Counting, publishing, restoring and rendering, read back with Prometheus' own parser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hsettings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from interlock.settings import Settings
from interlock.telemetry.exposition import render
from interlock.telemetry.instruments import OTHER, Family, Histogram, Labels
from interlock.telemetry.metrics import Metrics, fill_process, metrics_file
from interlock.testing.clock import FakeClock

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"
SETTINGS = Settings()


def samples(text: bytes) -> dict[tuple[str, Labels], float]:
    """(sample name, label values in order of the text) -> value."""
    return {
        (s.name, tuple(s.labels.values())): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
    }


def test_slots_are_summed_and_gauges_merge_as_declared(tmp_path: Path) -> None:
    clock = FakeClock()
    for slot, version in (("0", 7), ("1", 5)):
        metrics = Metrics(tmp_path, slot, SETTINGS, clock)
        metrics.requests.add(("chat", "completed"), 3)
        metrics.inflight.set((), 2)
        metrics.snapshot_version.set((), version)
        metrics.snapshot_age_seconds.set((), version * 1_000_000)
        metrics.publish()
    got = samples(render(tmp_path, SETTINGS, clock))
    assert got["interlock_requests_total", ("chat", "completed")] == 6
    assert got["interlock_inflight", ()] == 4
    assert got["interlock_snapshot_version", ()] == 5
    assert got["interlock_snapshot_age_seconds", ()] == 7.0


def test_histogram_buckets_are_cumulative_and_in_seconds(tmp_path: Path) -> None:
    clock = FakeClock()
    metrics = Metrics(tmp_path, "0", SETTINGS, clock)
    for us in (1_000, 1_001, 400_000_000):
        metrics.request_seconds.observe_us(("chat",), us)
    metrics.publish()
    got = samples(render(tmp_path, SETTINGS, clock))
    name = "interlock_request_seconds"
    assert got[name + "_bucket", ("chat", "0.001")] == 1, "a value on the bound belongs below it"
    assert got[name + "_bucket", ("chat", "0.0025")] == 2
    assert got[name + "_bucket", ("chat", "300")] == 2
    assert got[name + "_bucket", ("chat", "+Inf")] == got[name + "_count", ("chat",)] == 3
    assert got[name + "_sum", ("chat",)] == pytest.approx(400.002001)


def test_restart_in_a_slot_continues_counts_and_drops_gauges(tmp_path: Path) -> None:
    clock = FakeClock()
    first = Metrics(tmp_path, "0", SETTINGS, clock)
    first.requests.add(("chat", "completed"), 3)
    first.request_seconds.observe_us(("chat",), 5)
    first.inflight.set((), 9)
    first.log_bytes.follow((), 100)
    first.publish()
    second = Metrics(tmp_path, "0", SETTINGS, clock)
    second.requests.add(("chat", "completed"))
    second.request_seconds.observe_us(("chat",), 5)
    second.log_bytes.follow((), 40)
    second.log_bytes.follow((), 50)
    second.publish()
    got = samples(render(tmp_path, SETTINGS, clock))
    assert got["interlock_requests_total", ("chat", "completed")] == 4
    assert got["interlock_request_seconds_count", ("chat",)] == 2
    assert got["interlock_log_bytes_total", ()] == 150
    assert ("interlock_inflight", ()) not in got


def test_gauges_of_a_silent_process_vanish_but_its_counts_stay(tmp_path: Path) -> None:
    clock = FakeClock()
    metrics = Metrics(tmp_path, "3", SETTINGS, clock)
    metrics.requests.add(("chat", "completed"))
    metrics.inflight.set((), 9)
    metrics.publish()
    clock.advance(s=5)
    assert ("interlock_inflight", ()) in samples(render(tmp_path, SETTINGS, clock))
    clock.advance(s=1)
    got = samples(render(tmp_path, SETTINGS, clock))
    assert ("interlock_inflight", ()) not in got
    assert got["interlock_requests_total", ("chat", "completed")] == 1


@pytest.mark.parametrize("content", [b"", b"\x93\x01", b"\xc1garbage", b"\x90"])
def test_unreadable_files_are_left_out_and_started_over(tmp_path: Path, content: bytes) -> None:
    metrics_file(tmp_path, "0").write_bytes(content)
    clock = FakeClock()
    assert render(tmp_path, SETTINGS, clock) == b""
    metrics = Metrics(tmp_path, "0", SETTINGS, clock)
    metrics.log_fsyncs.add()
    metrics.publish()
    assert samples(render(tmp_path, SETTINGS, clock)) == {("interlock_log_fsyncs_total", ()): 1}


def test_a_full_family_counts_the_rest_together(tmp_path: Path) -> None:
    clock = FakeClock()
    metrics = Metrics(tmp_path, "0", Settings(metrics_series_max=16), clock)
    for number in range(40):
        metrics.tokens.add((f"s{number}", "m", "prompt"), 2)
        metrics.first_byte_seconds.observe_us((f"s{number}", "m"), 10)
        metrics.source_up.set((f"s{number}",), 1)
    assert len(metrics.tokens.cells) == len(metrics.first_byte_seconds.cells) == len(metrics.source_up.cells) == 17
    assert metrics.tokens.cells[OTHER, OTHER, OTHER] == 48
    assert sum(metrics.tokens.cells.values()) == 80
    assert metrics.first_byte_seconds.cells[OTHER, OTHER][0] == 24
    assert metrics.series_folded.cells[("interlock_tokens_total",)] == 24


def test_wrong_number_of_labels_is_an_error() -> None:
    metrics = Metrics(None, "0", SETTINGS, FakeClock())
    with pytest.raises(ValueError, match="has 2 labels"):
        metrics.requests.add(("chat",))


def test_hooks_run_before_publication_and_the_file_is_private(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, "node", SETTINGS, FakeClock())
    metrics.before_publish(lambda m: fill_process(m, "node"))
    metrics.publish()
    assert metrics.resident_bytes.cells[("node",)] > 1_000_000
    assert metrics_file(tmp_path, "node").stat().st_mode & 0o777 == 0o600
    assert [f.name for f in tmp_path.iterdir()] == ["metrics-node.bin"]


def test_unwritable_folder_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "absent", "0", SETTINGS, FakeClock())
    with pytest.raises(FileNotFoundError):
        metrics.publish()


@hsettings(max_examples=30)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e"))))
def test_any_label_value_survives_the_text(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder, clock = tmp_path_factory.mktemp("m"), FakeClock()
    metrics = Metrics(folder, "0", SETTINGS, clock)
    for name in names:
        metrics.source_up.set((name,), 1)
    metrics.publish()
    assert {k[1][0] for k in samples(render(folder, SETTINGS, clock))} == set(names)


@given(st.lists(st.integers(0, 10**10), max_size=30))
def test_a_histogram_loses_nothing(values: list[int]) -> None:
    histogram = Histogram(Family("h", "", (), "histogram", bounds=(10, 1000, 10**6)), 16, lambda _: None)
    for value in values:
        histogram.observe_us((), value)
    row = histogram.cells.get((), [0] * 5)
    assert sum(row[:-1]) == len(values) and row[-1] == sum(values)
    assert row[0] == sum(v <= 10 for v in values) and row[3] == sum(v > 10**6 for v in values)


def test_every_family_is_documented_and_nothing_else() -> None:
    families = Metrics(None, "0", SETTINGS, FakeClock()).families
    documented = {}
    for line in DOCS.read_text().splitlines():
        if found := re.match(r"\| `(interlock_\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", line):
            documented[found[1]] = found.groups()[1:]
    wanted = {f.name: (f.kind, ", ".join(f"`{x}`" for x in f.labels), f.help) for f in families.values()}
    assert documented == wanted
