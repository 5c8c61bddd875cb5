"""`interlock doctor`: runs every check and says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from interlock.cli.common import AsJson, Ca, Home, Url, client_of, settings_of
from interlock.cli.output import put, put_json
from interlock.errors import InterlockError

if TYPE_CHECKING:
    from interlock.cli.doctor.facts import MachineFacts
    from interlock.control.diagnosis import ControlFacts
    from interlock.control.doctor.findings import Finding


def doctor(home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False) -> None:
    """Say what is wrong or weak, with a remedy each. Exit code 3 when something is wrong."""
    from interlock.cli.doctor.gather import ask, look
    from interlock.control.doctor.findings import Finding

    settings = settings_of(home)
    findings: list[Finding] = []
    control: ControlFacts | None = None
    off: float | None = None
    try:
        control, off = ask(client_of(home, url, ca))
    except InterlockError as e:
        words = f"the admin API was not asked: {e.message}"
        findings.append(Finding("wrong", "control", words, "start `interlock control`, or name it with --url"))
    machine = look(settings, off) if settings.home_path().is_dir() else None
    findings += examine(control, machine)
    findings.sort(key=lambda finding: finding.level != "wrong")
    wrong = any(finding.level == "wrong" for finding in findings)
    if as_json:
        checked = {"admin_api": control is not None, "machine": machine is not None}
        put_json({"ok": not wrong, "checked": checked, "findings": [_plain(f) for f in findings]})
    else:
        _tell(findings, control is not None, machine is not None)
    if wrong:
        raise typer.Exit(3)


def examine(control: ControlFacts | None, machine: MachineFacts | None) -> list[Finding]:
    """What the checks say of these facts. None: they could not be gathered."""
    from interlock.cli.doctor import machine as local
    from interlock.control.doctor import cluster

    findings: list[Finding] = []
    if control is not None:
        findings += [finding for check in cluster.CHECKS for finding in check(control)]
    if machine is not None:
        findings += [finding for check in local.CHECKS for finding in check(machine)]
    if control is not None and machine is not None:
        findings += local.others(machine, control.version)
    return findings


def _plain(finding: Finding) -> dict[str, str]:
    return {name: getattr(finding, name) for name in finding.__struct_fields__}


def _tell(findings: list[Finding], asked: bool, looked: bool) -> None:
    for finding in findings:
        put(f"{finding.level}  {finding.check}: {finding.words}.", f"       {finding.remedy}.")
    if not looked:
        put("This machine has no such home: its files and settings were not checked.")
    number = sum(finding.level == "wrong" for finding in findings)
    words = "Nothing is wrong" if not number else f"{number} wrong"
    put(f"{words}, {len(findings) - number} weak." if asked else f"{words}, {len(findings) - number} weak, in part.")
