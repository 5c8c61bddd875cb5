"""One `interlock up --demo` for all end-to-end tests: real PostgreSQL, real engines, two workers."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.figures import note

from .stack import Stack, running, temporary_home


@pytest.fixture(scope="session")
def demo() -> Iterator[Stack]:
    """The demo, stopped with SIGTERM when the last test has run. Tests leave its configuration as they found it."""
    environment = {
        "INTERLOCK_WORKERS": "2",
        "INTERLOCK_LEDGER_CHECKPOINT_S": "1",
        "INTERLOCK_LEDGER_QUIET_CHECKPOINT_S": "2",
        "INTERLOCK_JWKS_HOSTS_PRIVATE": "127.0.0.1",
        "INTERLOCK_LEARNING_INTERVAL_MS": "500",
        "INTERLOCK_LEARNING_PUBLISH_MS": "1000",
    }
    with temporary_home() as home, running(home, demo=True, environment=environment) as stack:
        note(f"interlock up --demo on an empty home: ready in {stack.ready_s:.1f} s")
        yield stack


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty home folder for one test."""
    with temporary_home() as folder:
        yield folder


@pytest.fixture(scope="session")
def rosa(demo: Stack) -> str:
    """The key of acme's researcher, who may use both sources."""
    return demo.key("acme", "rosa-laptop")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure comes with the last lines of the stack that it was about."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            stack = getattr(value, "stack", value)
            if isinstance(stack, Stack) and stack.log.exists():
                report.sections.append(("interlock up", stack.log.read_text(errors="replace")[-4000:]))
    return report
