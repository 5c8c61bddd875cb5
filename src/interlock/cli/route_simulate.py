"""`interlock route simulate`: what an order of replicas is worth, on simulated engines."""

from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interlock.cli.common import AsJson, Home, settings_of
from interlock.cli.output import check_plot, put, put_json, table, write_plot
from interlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interlock.testing.fleet import Fleet, Report
    from interlock.testing.workloads import Conversation

HEAD = ("policy", "TTFT ms mean", "p50", "p95", "p99", "prefix hits", "tokens/s", "load", "load max/mean")
Many = Annotated[list[str] | None, typer.Option("--policy", help="Only this one; may be repeated.")]
Work = Annotated[str, typer.Option("--workload", help="multi-turn, skewed, shared-prefix, or a file.")]
Replicas = Annotated[int, typer.Option(min=1, max=256, help="Engines.")]
Nodes = Annotated[int, typer.Option(min=1, max=64, help="Gateway nodes; each call comes to any of them.")]
Calls = Annotated[int, typer.Option(min=1, max=1_000_000, help="Calls that are made up.")]
Load = Annotated[
    float, typer.Option(min=0.01, max=10, help="Work offered, as a share of what can be done with nothing cached.")
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed, the same figures.")]
Slots = Annotated[int, typer.Option(min=1, max=4096, help="Sequences that an engine runs at a time.")]
KvBlocks = Annotated[int, typer.Option(min=1, max=1_000_000, help="Blocks of an engine's KV cache.")]
BlockTokens = Annotated[int, typer.Option(min=1, max=4096, help="Tokens in a block.")]
Prefill = Annotated[float, typer.Option(min=1, help="Tokens of prompts that an engine computes in a second.")]
StepMs = Annotated[float, typer.Option(min=0.01, help="Milliseconds for a token of each sequence.")]
SequenceMs = Annotated[float, typer.Option(min=0, help="Milliseconds that each sequence adds to it.")]
IntervalMs = Annotated[
    int | None, typer.Option(min=1, help="Milliseconds between readings of an engine; setting load_interval_ms.")
]
DelayMs = Annotated[int, typer.Option(min=0, help="Milliseconds until a node knows a reading.")]
Plot = Annotated[str, typer.Option("--plot", metavar="FILE", help="Draw the times to first token there (SVG).")]


def simulate(
    workload: Work = "multi-turn",
    policy: Many = None,
    replicas: Replicas = 4,
    nodes: Nodes = 2,
    calls: Calls = 3000,
    load: Load = 1.0,
    seed: Seed = 1,
    slots: Slots = 32,
    kv_blocks: KvBlocks = 8192,
    block_tokens: BlockTokens = 16,
    prefill_tokens_per_s: Prefill = 8000,
    step_ms: StepMs = 10,
    step_per_sequence_ms: SequenceMs = 0.5,
    reading_interval_ms: IntervalMs = None,
    reading_delay_ms: DelayMs = 20,
    plot: Plot = "",
    home: Home = "",
    as_json: AsJson = False,
) -> None:
    """Simulate gateway nodes before engines with prefix caches: placement beside simpler policies."""
    from interlock.routing.placement import bounds_of
    from interlock.testing import fleet as fleets
    from interlock.testing.simulator import EngineShape

    settings = settings_of(home)
    shape = EngineShape(
        slots=slots,
        queue_max=fleets.SHAPE.queue_max,
        kv_blocks=kv_blocks,
        block_tokens=block_tokens,
        prefill_tokens_per_s=prefill_tokens_per_s,
        step_base_s=step_ms / 1000,
        step_per_sequence_s=step_per_sequence_ms / 1000,
    )
    fleet = fleets.Fleet(
        replicas=replicas,
        nodes=nodes,
        shape=shape,
        placement=bounds_of(settings),
        reading_interval_s=(reading_interval_ms or settings.load_interval_ms) / 1000,
        reading_delay_s=reading_delay_ms / 1000,
        reading_age_s_max=settings.load_age_ms_max / 1000,
    )
    check_plot(plot)
    unknown = sorted(set(policy or ()) - set(fleets.POLICIES))
    if unknown:
        raise ConfigError(f"policy {unknown[0]!r} is not one of {', '.join(fleets.POLICIES)}", param="policy")
    conversations = _conversations(workload, calls, load, fleet, seed)
    reports = [_run(each, fleet, conversations, seed) for each in policy or fleets.POLICIES]
    if plot:
        from interlock.testing.plot import curves

        write_plot(plot, curves({r.policy: r.ttft_ms for r in reports}))
    _tell(reports, workload, fleet, seed, as_json=as_json)


def _conversations(workload: str, calls: int, load: float, fleet: Fleet, seed: int) -> Sequence[Conversation]:
    from interlock.testing.fleet import capacity
    from interlock.testing.workloads import WORKLOADS, arriving, made, read

    if workload not in WORKLOADS:
        return read(Path(workload))
    rng = random.Random(f"workload {seed}")  # noqa: S311 - a simulation
    conversations = made(workload, calls, rng)
    return arriving(conversations, load * capacity(fleet, conversations), rng)


def _run(policy: str, fleet: Fleet, conversations: Sequence[Conversation], seed: int) -> Report:
    from interlock.testing.fleet import report, simulate

    if sys.stderr.isatty():
        sys.stderr.write(f"interlock: simulating {policy}\n")
    try:
        ended = simulate(fleet, policy, conversations, random.Random(f"fleet {seed}"))  # noqa: S311 - a simulation
    except ValueError as e:
        raise ConfigError(f"an engine cannot take a call of this workload: {e}", param="workload") from None
    return report(policy, ended, fleet.replicas)


def _tell(reports: Sequence[Report], workload: str, fleet: Fleet, seed: int, *, as_json: bool) -> None:
    if as_json:
        found = [{k: v for k, v in dataclasses.asdict(r).items() if k != "ttft_ms"} for r in reports]
        put_json({"workload": workload, "seed": seed, "fleet": _plain(fleet), "reports": found})
        return
    first = reports[0]
    words = f"{first.calls} calls in {first.seconds:.0f} s, {fleet.replicas} replicas, {fleet.nodes} nodes"
    put(f"{workload}, seed {seed}: {words}. Simulated time.", "")
    rows = [
        (
            r.policy,
            *(f"{each:.0f}" for each in (r.ttft_ms_mean, r.ttft_ms_p50, r.ttft_ms_p95, r.ttft_ms_p99)),
            f"{r.prefix_hit_share:.1%}",
            f"{r.tokens_per_s:.0f}",
            f"{r.load_mean:.1f}",
            f"{r.load_max_over_mean:.2f}",
        )
        for r in reports
    ]
    table(rows, HEAD)


def _plain(fleet: Fleet) -> dict[str, object]:
    import msgspec

    plain: dict[str, object] = msgspec.to_builtins(dataclasses.asdict(fleet))
    plain["placement"] = {name: getattr(fleet.placement, name) for name in fleet.placement.__struct_fields__}
    return plain
