"""Placement on simulated fleets: what it is worth beside simpler policies, and that the simulation can be believed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from interlock.cli.main import app
from interlock.errors import ConfigError
from interlock.testing.fleet import POLICIES, Fleet, Report, capacity, report, simulate
from interlock.testing.simulator import EngineShape
from interlock.testing.workloads import WORKLOADS, Conversation, Turn, arriving, made, read

FLEET = Fleet()


def offered(workload: str, calls: int, seed: int, fleet: Fleet = FLEET, load: float = 1.0) -> list[Conversation]:
    rng = random.Random(seed)
    conversations = made(workload, calls, rng)
    return arriving(conversations, load * capacity(fleet, conversations), rng)


def run(policy: str, workload: str, seed: int, calls: int = 1500, fleet: Fleet = FLEET) -> Report:
    ended = simulate(fleet, policy, offered(workload, calls, seed, fleet), random.Random(seed))
    return report(policy, ended, fleet.replicas)


@pytest.mark.parametrize("seed", [1, 2])
def test_conversations_find_more_of_their_prefix_and_wait_less(seed: int) -> None:
    placed, spread, least = (run(policy, "multi-turn", seed) for policy in ("placement", "round-robin", "least-load"))
    for other in (spread, least):
        assert placed.prefix_hit_share > 1.3 * other.prefix_hit_share
        assert placed.ttft_ms_mean < 0.8 * other.ttft_ms_mean
        assert placed.ttft_ms_p95 < other.ttft_ms_p95
        assert placed.tokens_per_s > 0.99 * other.tokens_per_s
    assert placed.load_max_over_mean < 1.3


@pytest.mark.parametrize("seed", [1, 2])
def test_skewed_prefixes_do_not_overload_a_replica(seed: int) -> None:
    placed, spread, least = (run(policy, "skewed", seed) for policy in ("placement", "round-robin", "least-load"))
    assert placed.load_max_over_mean < 1.3 and placed.calls_max_over_mean < 1.3
    for other in (spread, least):
        assert placed.prefix_hit_share > other.prefix_hit_share + 0.03
        assert placed.ttft_ms_mean < other.ttft_ms_mean


@pytest.mark.parametrize(("seed", "replicas"), [(1, 4), (2, 4), (3, 8)])
def test_calls_without_a_slot_load_replicas_evenly_and_wait_less_than_by_load_alone(seed: int, replicas: int) -> None:
    fleet = Fleet(replicas=replicas)
    drawn, least = (run(policy, "skewed", seed, 150 * replicas, fleet) for policy in ("no-affinity", "least-load"))
    assert drawn.load_max_over_mean < 1.2
    assert drawn.ttft_ms_mean < least.ttft_ms_mean


def test_without_a_bound_on_load_skewed_prefixes_do() -> None:
    """The same without the bound: what it is there for."""
    free = Fleet(placement=FLEET.placement.__class__(10_000, 1_000_000, 1000, 0))
    assert run("placement", "skewed", 1, fleet=free).load_max_over_mean > 1.5


def test_more_nodes_do_not_need_to_know_of_each_other() -> None:
    one, many = (run("placement", "multi-turn", 3, fleet=Fleet(nodes=nodes)) for nodes in (1, 8))
    assert many.prefix_hit_share > 0.95 * one.prefix_hit_share
    assert many.load_max_over_mean < 1.3


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("workload", sorted(WORKLOADS))
def test_every_turn_is_answered_once_and_the_same_way_again(policy: str, workload: str) -> None:
    conversations = offered(workload, 150, 4)
    ended = simulate(FLEET, policy, conversations, random.Random(4))
    assert ended == simulate(FLEET, policy, conversations, random.Random(4))
    asked = sorted((t.prompt_tokens, t.completion_tokens) for each in conversations for t in each.turns)
    assert sorted((call.prompt_tokens, call.completion_tokens) for call in ended) == asked
    for call in ended:
        assert 0 <= call.cached_tokens <= call.prompt_tokens
        assert call.arrived_s < call.first_token_s <= call.finished_s
        least_s = FLEET.shape.step_base_s * call.completion_tokens
        assert call.finished_s - call.arrived_s >= least_s


def test_a_fleet_with_one_replica_is_one_engine() -> None:
    """By hand: two calls, the second finds the first one's blocks."""
    shape = EngineShape(slots=1, kv_blocks=64, prefill_tokens_per_s=1000, step_base_s=0.01, step_per_sequence_s=0)
    fleet = Fleet(replicas=1, nodes=1, shape=shape)
    talk = Conversation(2.0, b"x", tuple(map(str, range(96))), (Turn(64, 10, 0), Turn(96, 5, 3.0)))
    for policy in POLICIES:
        first, second = simulate(fleet, policy, [talk], random.Random(1))
        assert tuple(first) == pytest.approx((0, 2.0, 2.074, 2.164, 0, 64, 0, 10))
        assert tuple(second) == pytest.approx((0, 5.164, 5.206, 5.246, 1, 96, 64, 5))


def test_the_command_tells_and_draws(tmp_path: Path) -> None:
    plot = tmp_path / "times.svg"
    options = ["route", "simulate", "--calls", "120", "--home", str(tmp_path), "--seed", "3"]
    shown = CliRunner().invoke(app, [*options, "--plot", str(plot)])
    assert shown.exit_code == 0 and all(policy in shown.stdout for policy in POLICIES)
    assert len(ElementTree.parse(plot).getroot().findall("{http://www.w3.org/2000/svg}polyline")) == len(POLICIES)
    found = json.loads(CliRunner().invoke(app, [*options, "--json", "--policy", "placement"]).stdout)
    assert [each["policy"] for each in found["reports"]] == ["placement"]
    assert found["fleet"]["placement"]["load_factor_milli"] == 1200 and found["reports"][0]["calls"] >= 120
    again = CliRunner().invoke(app, [*options, "--json", "--policy", "placement"]).stdout
    assert json.loads(again) == found


def test_a_workload_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    turns = [{"prompt_tokens": 40, "completion_tokens": 8}, {"prompt_tokens": 80, "completion_tokens": 8, "think_s": 2}]
    lines = [
        {"conversation": f"c{n}", "start_s": 9 - n, "shared": "s", "shared_tokens": 32, "turns": turns}
        for n in range(3)
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found = read(file)
    assert [each.start_s for each in found] == [7, 8, 9]
    assert found[0].words[:32] == found[1].words[:32] and found[0].words[32] != found[1].words[32]
    options = ["route", "simulate", "--home", str(tmp_path), "--workload", str(file), "--json"]
    report = json.loads(CliRunner().invoke(app, options).stdout)["reports"][0]
    assert report["calls"] == 6


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no conversation"),
        ("{", "line 1"),
        ('{"conversation":"a","start_s":0,"turns":[]}', "at least one turn"),
        ('{"conversation":"a","start_s":-1,"turns":[{"prompt_tokens":1,"completion_tokens":1}]}', "not negative"),
        ('{"conversation":"a","start_s":0,"turns":[{"prompt_tokens":0,"completion_tokens":1}]}', "tokens are 1"),
        (
            '{"conversation":"a","start_s":0,"shared_tokens":-1,"turns":[{"prompt_tokens":1,"completion_tokens":1}]}',
            "shared",
        ),
        ('{"conversation":"a","start_s":0,"turn":[]}', "turn"),
    ],
)
def test_a_bad_file_is_refused_by_its_line(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "calls.jsonl"
    file.write_text(line)
    with pytest.raises(ConfigError, match=words):
        read(file)


def test_what_cannot_be_simulated_is_said(tmp_path: Path) -> None:
    base = ["route", "simulate", "--home", str(tmp_path), "--calls", "5"]
    for wrong in (["--policy", "luck"], ["--kv-blocks", "4"], ["--workload", str(tmp_path / "none")]):
        assert isinstance(CliRunner().invoke(app, [*base, *wrong]).exception, ConfigError)
