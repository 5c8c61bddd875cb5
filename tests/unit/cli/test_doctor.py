"""Each check of `interlock doctor`, both ways: silent on a sound installation, and speaking where one thing is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.cli.doctor import machine
from interlock.cli.doctor.facts import CertificateFacts, FileFacts, MachineFacts
from interlock.cli.examine import examine
from interlock.control.diagnosis import (
    ControlFacts,
    IssuerFacts,
    JudgeFacts,
    KeyFacts,
    LagFacts,
    LearnerFacts,
    NodeFacts,
    SourceFacts,
)
from interlock.control.doctor import cluster
from interlock.control.doctor.findings import Finding
from interlock.settings import Settings

DAY_S = 86_400
SOURCE = SourceFacts(
    name="gpu",
    kind="vllm",
    url="http://10.0.0.1:8000",
    credential=True,
    drained=False,
    error="",
    engine="vllm",
    engine_version="0.32.0",
    engine_state="",
    models=("m",),
    granted_to=("*",),
    answers="closed",
)
SOUND = ControlFacts(
    version="1.0",
    schema="0014",
    schema_wanted="0014",
    clock_s=1e9,
    database_clock_s=1e9,
    control_host="127.0.0.1",
    control_tls=False,
    metrics_key=False,
    snapshot_version=7,
    compiler_failure="",
    ledger_failing=False,
    retention_failing=False,
    inbox_rows=3,
    ledger_clock_skew_s=60.0,
    nodes=(NodeFacts("a", "1.0", 1.0, 0, 0.01),),
    lags=(LagFacts("a", "e" * 16, 2.0),),
    sources=(SOURCE, msgspec.structs.replace(SOURCE, name="cloud", kind="openai", engine_version="", answers="")),
    issuers=(IssuerFacts("acme", "https://id", ""),),
    learning_tenants=2,
    learner=LearnerFacts("box", 4.0, 3, 500, 9_000, 20),
)
HERE = MachineFacts(
    version="1.0",
    settings=Settings(),
    files=(FileFacts("/home/secrets/pepper", 0o600), FileFacts("/home/secrets", 0o700)),
    certificates=(CertificateFacts("tls_cert_file", "/c.pem", 90.0 * DAY_S),),
    disk_free=100 << 30,
    log_bytes=1 << 20,
    clock_off_s=0.0,
)


def source(**fields: Any) -> dict[str, Any]:
    return {"sources": (msgspec.structs.replace(SOURCE, **fields),)}


def node(**fields: Any) -> dict[str, Any]:
    return {"nodes": (msgspec.structs.replace(SOUND.nodes[0], **fields),)}


def settings(**fields: Any) -> dict[str, Any]:
    return {"settings": Settings(**fields)}


def test_a_sound_installation_has_nothing_to_say() -> None:
    assert examine(SOUND, HERE) == []
    assert examine(None, None) == []


CLUSTER: list[tuple[dict[str, Any], str, str]] = [
    (source(answers="open"), "open_source", "wrong"),
    (source(answers="open", credential=False), "open_source", "wrong"),
    (source(engine_state="failed"), "engine", "wrong"),
    (source(engine_state="lost"), "engine", "wrong"),
    (source(error="it refused the connection"), "source_failing", "wrong"),
    (source(models=()), "source_empty", "weak"),
    (source(drained=True), "source_drained", "weak"),
    (source(granted_to=()), "source_not_granted", "weak"),
    (source(granted_to=("acme",), unused_by=("acme",)), "grant_unused", "weak"),
    ({"idle_roles": ("eve: admin over everything",)}, "role_unused", "weak"),
    ({"database_clock_s": 1e9 - 5}, "clock", "weak"),
    ({"database_clock_s": 1e9 + 100}, "clock", "wrong"),
    (node(clock_off_s=-3.0), "clock", "weak"),
    (node(clock_off_s=61.0), "clock", "wrong"),
    ({"schema": "0009"}, "schema", "wrong"),
    (node(version="0.9"), "node_version", "wrong"),
    (node(seen_s_ago=61.0), "node_silent", "wrong"),
    (node(behind=6), "node_behind", "wrong"),
    ({"nodes": ()}, "node_none", "wrong"),
    ({"compiler_failure": "a policy is damaged"}, "compiler", "wrong"),
    ({"lags": (LagFacts("a", "e" * 16, 61.0),)}, "ledger_backlog", "wrong"),
    ({"inbox_rows": 10_001}, "ledger_inbox", "wrong"),
    ({"ledger_failing": True}, "ledger_failing", "wrong"),
    ({"retention_failing": True}, "ledger_failing", "wrong"),
    ({"keys_without_end": 1, "keys": (KeyFacts("acme", "k", False),)}, "key_without_end", "weak"),
    ({"issuers": (IssuerFacts("acme", "https://id", "it refused the connection"),)}, "issuer", "wrong"),
    ({"control_host": "0.0.0.0", "metrics_key": True}, "control_tls", "wrong"),
    ({"control_host": "::", "control_tls": True}, "control_metrics", "wrong"),
    ({"not_recorded": ("acme",)}, "recording", "weak"),
    ({"learner": None}, "learner_silent", "weak"),
    ({"learner": LearnerFacts("box", 301.0, 3, 500, 9_000, 20)}, "learner_silent", "weak"),
    ({"learner": LearnerFacts("box", 4.0, 3, 500, 9_000, 20_001)}, "learner_behind", "weak"),
    ({"judges": (JudgeFacts("acme", "judge", "llama@2", "chance", 41),)}, "judge_not_trusted", "weak"),
]


@pytest.mark.parametrize(("change", "check", "level"), CLUSTER, ids=[f"{c}-{i}" for i, (_, c, _) in enumerate(CLUSTER)])
def test_one_fault_in_the_cluster_is_one_finding(change: dict[str, Any], check: str, level: str) -> None:
    found = examine(msgspec.structs.replace(SOUND, **change), HERE)
    assert [(f.check, f.level) for f in found] == [(check, level)], found
    assert found[0].words and found[0].remedy


@pytest.mark.parametrize(
    "change",
    [
        source(answers="", error=""),  # whether it is open cannot be told
        source(error="loading", engine_state="loading"),
        source(granted_to=(), owner="acme"),
        node(clock_off_s=None),
        node(clock_off_s=1.9),
        node(behind=5),
        {"control_host": "localhost"},
        {"control_host": "::1"},
        {"control_host": "10.0.0.1", "control_tls": True, "metrics_key": True},
    ],
)
def test_what_is_well_is_left_alone(change: dict[str, Any]) -> None:
    assert examine(msgspec.structs.replace(SOUND, **change), HERE) == []


def test_engines_of_one_model_in_two_versions() -> None:
    old = msgspec.structs.replace(SOURCE, name="old", engine_version="0.31.0")
    other = msgspec.structs.replace(SOURCE, name="other", engine="llama.cpp", engine_version="b1")
    (found,) = examine(msgspec.structs.replace(SOUND, sources=(SOURCE, old)), HERE)
    assert found.check == "engine_version" and "0.31.0" in found.words
    assert examine(msgspec.structs.replace(SOUND, sources=(SOURCE, other)), HERE) == []


def test_of_a_judge_it_is_said_which_whose_why_by_how_many_answers_and_what_to_do() -> None:
    judges = (
        JudgeFacts("acme", "judge", "llama@2", "chance", 41),
        JudgeFacts("globex", "qwen", "qwen", "constant", 30),
    )
    named, plain = examine(msgspec.structs.replace(SOUND, judges=judges), HERE)
    assert named.words.startswith("the judge llama@2, asked as judge, of tenant acme is not trusted, by its last 41")
    assert "no more than chance would have it" in named.words and "of tenant acme; to stop paying" in named.remedy
    assert plain.words.startswith("the judge qwen of tenant globex is not trusted, by its last 30 answers")
    assert "scores every answer alike" in plain.words


def test_the_keys_of_administrators_are_named_and_long_lists_cut() -> None:
    keys = (KeyFacts("platform", "admin", True), *(KeyFacts("acme", f"k{n}", False) for n in range(9)))
    (found,) = examine(msgspec.structs.replace(SOUND, keys=keys, keys_without_end=10), HERE)
    assert "platform/admin administer" in found.words and "and 5 more" in found.words


MACHINE: list[tuple[dict[str, Any], str, str]] = [
    (settings(gateway_host="0.0.0.0", metrics_key="k" * 32), "gateway_tls", "wrong"),
    (settings(gateway_host="10.0.0.1", tls_cert_file="/c.pem"), "gateway_metrics", "wrong"),
    (settings(metrics_key="short"), "metrics_key", "weak"),
    ({"files": (FileFacts("/home/secrets/pepper", 0o640),)}, "file_mode", "wrong"),
    ({"files": (FileFacts("/home/secrets", 0o711),)}, "file_mode", "wrong"),
    ({"certificates": (CertificateFacts("tls_cert_file", "/c", 13.9 * DAY_S),)}, "certificate", "wrong"),
    ({"certificates": (CertificateFacts("tls_cert_file", "/c", -DAY_S),)}, "certificate", "wrong"),
    ({"certificates": (CertificateFacts("tls_cert_file", "/c", None, "no such file"),)}, "certificate", "wrong"),
    (settings(snapshot_age_max_s_restricted=2 * DAY_S), "snapshot_age", "weak"),
    (settings(snapshot_age_max_s_internal=60), "snapshot_age", "weak"),
    (settings(stream_sync_ms=5000), "durability", "weak"),
    (settings(log_disk_free_bytes_min=0), "durability", "weak"),
    ({"disk_free": 500_000_000, "settings": Settings(log_disk_bytes_max=400_000_000)}, "disk_full", "wrong"),
    ({"log_bytes": 41_000_000_000}, "log_full", "wrong"),
    ({"disk_free": 10_000_000_000}, "disk_small", "weak"),
    ({"demo_keys": True}, "demo_keys", "weak"),
    ({"clock_off_s": 3.0}, "clock", "weak"),
    ({"clock_off_s": -61.0}, "clock", "wrong"),
    ({"version": "0.9"}, "cli_version", "weak"),
]


@pytest.mark.parametrize(("change", "check", "level"), MACHINE, ids=[f"{c}-{i}" for i, (_, c, _) in enumerate(MACHINE)])
def test_one_fault_of_the_machine_is_one_finding(change: dict[str, Any], check: str, level: str) -> None:
    found = examine(SOUND, msgspec.structs.replace(HERE, **change))
    if check == "snapshot_age":
        assert found and {(f.check, f.level) for f in found} == {(check, level)}
    else:
        assert [(f.check, f.level) for f in found] == [(check, level)], found


def test_demo_keys_behind_a_public_address_are_wrong() -> None:
    public = Settings(gateway_host="0.0.0.0", tls_cert_file="/c.pem", metrics_key="k" * 32)
    (found,) = examine(SOUND, msgspec.structs.replace(HERE, settings=public, demo_keys=True))
    assert (found.check, found.level) == ("demo_keys", "wrong")


def test_every_check_has_a_case() -> None:
    spoken = {check for _, check, _ in (*CLUSTER, *MACHINE)} | {"engine_version"}
    text = "".join(Path(str(module.__file__)).read_text() for module in (cluster, machine))
    named = set(re.findall(r'"(?:wrong|weak)"(?: if [^"]*"weak")?,\s*"([a-z_]+)"', text.replace(" else ", " if ")))
    assert spoken == named
    for module in (cluster, machine):
        for check in module.CHECKS:
            assert check.__doc__


def test_names_in_a_sentence() -> None:
    from interlock.control.doctor.findings import listed

    assert listed(["a", "b"]) == "a, b"
    assert listed(str(n) for n in range(7)) == "0, 1, 2, 3, 4 and 2 more"
    assert Finding("weak", "c", "w", "r").level == "weak"
