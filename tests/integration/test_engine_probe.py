"""What a supervisor asks an engine before it is used, against a scripted engine."""

from __future__ import annotations

from interlock.cli.engines.probe import fault, running
from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine


def test_an_engine_that_asks_for_its_key_is_used() -> None:
    engine = ScriptedEngine(models=("m",), kind="vllm")
    engine.script(answers.error(401))
    with engine.in_thread():
        assert fault(engine.port, "key", "m", 5) == ""


def test_an_engine_that_answers_whoever_asks_is_not_used() -> None:
    engine = ScriptedEngine(models=("m",), kind="vllm")
    engine.script(answers.error(400))
    with engine.in_thread():
        assert "answers without its key" in fault(engine.port, "key", "m", 5)


def test_an_engine_with_another_model_is_not_used() -> None:
    engine = ScriptedEngine(models=("other",), kind="vllm")
    engine.script(answers.error(401))
    with engine.in_thread():
        assert "serves other and not m" in fault(engine.port, "key", "m", 5)


def test_nothing_there_is_a_fault_and_no_load() -> None:
    assert "cannot be asked" in fault(1, "key", "m", 1)
    assert running(1, "key", "vllm") == 0
