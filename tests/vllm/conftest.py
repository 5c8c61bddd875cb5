"""Two vLLM instances, one `interlock up` configured by `interlock apply`, for the whole run.

`near` (eu) is cheap, saturates early, and has no tool parser; `far` (us) costs more, has one, and also serves a LoRA
adapter. What each test leaves
behind is what the next one finds, except that an instance that was ended is started again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import running, temporary_home
from tests.ports import free_port

from .engines import ADAPTER, Vllm, ended, last_words, make_adapter, missing
from .site import Site, Tap, configure

SETTINGS = {
    "INTERLOCK_WORKERS": "2",
    "INTERLOCK_HEALTH_FAILURES_MAX": "8",
    # On a busy machine a first event takes longer; a head that leaves before it names no source, which tests ask for.
    "INTERLOCK_KEEPALIVE_COMMENT_MS": "120000",
}
"""Four seconds until the probes say that an instance is lost: on a busy machine, time for calls to find out first."""

_figures: list[str] = []
_instances: list[Vllm] = []
_logs: list[tuple[str, Path]] = []
"""Name and place of the logs that go with a failure."""


def note(line: str) -> None:
    """A measured figure for the end of the test report."""
    _figures.append(line)


@pytest.fixture(scope="session")
def _instances_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Vllm]]:
    why = missing()
    if why:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("vllm")
    lora = ("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"{ADAPTER}={make_adapter(folder)}")
    near = Vllm("near", free_port(), folder / "near.log")
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    far = Vllm("far", free_port(), folder / "far.log", lora + tools)
    _instances.extend((near, far))
    _logs.extend((f"vLLM {instance.name}", instance.log) for instance in _instances)
    with ended(_instances):
        for instance in _instances:  # one after the other: together they would only slow each other down
            instance.start()
            note(f"vLLM {instance.name}: ready in {instance.ready_s:.0f} s")
        yield {instance.name: instance for instance in _instances}


@pytest.fixture
def vllm(_instances_once: dict[str, Vllm]) -> dict[str, Vllm]:
    """Both instances, running: one that an earlier test has ended is started again."""
    for instance in _instances_once.values():
        if instance.process is None or instance.process.poll() is not None or not instance.answers():
            instance.kill()
            instance.start()
    return _instances_once


@pytest.fixture(scope="session")
def _site_once(_instances_once: dict[str, Vllm]) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        tap = stack.enter_context(Tap(_instances_once["near"].port))
        home = stack.enter_context(temporary_home())
        up = stack.enter_context(running(home, environment=SETTINGS))
        _logs.append(("interlock up", up.log))
        keys = configure(up, _instances_once, tap)
        yield Site(up, keys, _instances_once, tap)


@pytest.fixture
def site(vllm: dict[str, Vllm], _site_once: Site) -> Site:
    """The running gateway with both instances as its sources, each of them up and idle."""
    _site_once.settle()
    return _site_once


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder need vLLM, and a start of minutes counts for the first of them."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(1800))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """The last words of the engines and of the gateway go with a failure."""
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        for name, log in _logs:
            with contextlib.suppress(OSError):
                report.sections.append((name, last_words(log)))  # type: ignore[attr-defined]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    if _figures:
        terminalreporter.section("vLLM figures")
        for line in _figures:
            terminalreporter.line(line)
