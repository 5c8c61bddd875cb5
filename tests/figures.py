"""What tests measured, for the end of the report: nothing depends on it."""

from __future__ import annotations

from typing import Any

import pytest

_figures: list[str] = []


def note(line: str) -> None:
    """Have this line at the end of the report."""
    _figures.append(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several test processes hands what it measured to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = _figures


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The other end of `pytest_sessionfinish`."""
    _figures.extend(getattr(node, "workeroutput", {}).get("figures", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    if _figures:
        terminalreporter.section("end-to-end figures")
        for line in _figures:
            terminalreporter.line(line)
