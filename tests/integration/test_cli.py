"""The command line against a running control process."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.cli.main import main
from interlock.control.main import listen, run_control
from interlock.settings import Settings
from interlock.types.source import Model
from tests.integration.control_client import Engines
from tests.unit.control.samples import FULL

CASES = """
cases:
- {tenant: acme, as: alice, model: smollm2, expect: permit, because: research-models}
- {tenant: acme, as: alice, model: smollm2, source: cloud, expect: deny}
"""


class Shell:
    """Runs commands with the home folder of a running control process."""

    def __init__(self, home: str, capture: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capture = capture

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of one command."""
        self._capture.readouterr()
        code = main([*arguments, "--home", self.home])
        out, err = self._capture.readouterr()
        return code, out, err

    def json(self, *arguments: str) -> Any:
        """What a command that must succeed prints with --json."""
        code, out, err = self.run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture(scope="module")
def home(postgres_url: str) -> Iterator[str]:
    """The home folder of a control process that runs in a thread."""
    engines = Engines()
    engines.models["http://127.0.0.1:9000"] = (Model(name="smollm2"),)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=folder, control_port=0, stop_grace_ms=1000)
        stop, ready = threading.Event(), threading.Event()
        thread = threading.Thread(
            target=run_control,
            args=(settings, postgres_url),
            kwargs={"sock": listen(settings), "stop": stop, "ready": lambda _: ready.set(), "discover": engines},
        )
        thread.start()
        try:
            assert ready.wait(120)
            yield folder
        finally:
            stop.set()
            thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def shell(home: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in ("INTERLOCK_ADMIN_KEY", "INTERLOCK_CONTROL_URL"):
        monkeypatch.delenv(name, raising=False)
    return Shell(home, capsys)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "conf.yaml"
    path.write_text(FULL)
    return str(path)


def test_plan_apply_export_and_apply_again(shell: Shell, file: str, tmp_path: Path) -> None:
    code, out, _ = shell.run("plan", "-f", file)
    assert code == 0
    assert "+ team research in acme" in out
    keys = tmp_path / "keys.json"
    code, out, _ = shell.run("apply", "-f", file, "--keys-out", str(keys))
    assert code == 0, out
    assert "il_live_" not in out
    assert "warning: source cloud: source 'cloud' refused the connection" in out
    assert keys.stat().st_mode & 0o777 == 0o600
    assert sorted(json.loads(keys.read_text())["acme"]) == ["alice-admin", "alice-laptop", "batch"]
    assert shell.run("apply", "-f", file)[1] == "No changes.\n"
    code, out, _ = shell.run("export")
    exported = tmp_path / "exported.yaml"
    exported.write_text(out + "prune: true\n")
    assert shell.json("plan", "-f", str(exported))["changes"] == []


def test_keys(shell: Shell, file: str) -> None:
    shell.run("apply", "-f", file)
    code, out, _ = shell.run("key", "create", "cli", "-t", "acme", "-p", "alice", "-m", "for a test")
    assert code == 0
    key = out.splitlines()[-1]
    renewed = shell.json("key", "rotate", "cli", "-t", "acme", "--overlap-s", "60")
    assert renewed["key"].startswith("il_live_")
    assert renewed["key"] != key
    assert len(shell.json("key", "revoke", "cli", "-t", "acme", "--cut")["items"]) == 2
    code, out, _ = shell.run("key", "list", "-t", "acme")
    assert code == 0
    states = [line.split()[-2] for line in out.splitlines() if line.startswith("cli ")]
    assert states == ["revoked", "revoked"]


def test_sources(shell: Shell, file: str) -> None:
    shell.run("apply", "-f", file)
    assert "smollm2" in shell.run("source", "list")[1]
    assert "drained" in shell.run("source", "drain", "local")[1]
    assert shell.json("source", "show", "local")["drained"]
    assert "in use" in shell.run("source", "undrain", "local")[1]
    assert shell.run("source", "refresh", "local")[0] == 0
    code, out, _ = shell.run("source", "show", "local")
    assert code == 0
    assert "  limits    saturated above " in out
    code, out, _ = shell.run("source", "refresh", "cloud")
    assert (code, "refused the connection" in out) == (1, True)


def test_budgets(shell: Shell, file: str, tmp_path: Path) -> None:
    shell.json("apply", "-f", file)
    tenant = ("-t", "acme")
    assert shell.run("budget", "list", *tenant)[1] == "There are no budgets.\n"
    made = shell.json("budget", "set", "research", *tenant, "--team", "research", "--usd", "12.50", "--alert", "50")
    assert made["item"]["usd"] == "12.5" and made["item"]["alerts"] == [50] and made["item"]["window"] == "month"
    shell.json("budget", "set", "research", *tenant, "--team", "research", "--usd", "20", "--window", "6h", "--soft")
    (shown,) = shell.json("budget", "list", *tenant)
    assert (shown["on"], shown["amount"], shown["hard"]) == ("team research", 20 * 10**9, False)
    assert (shown["used"], shown["held"], shown["text"]) == (0, 0, "0 of 20 USD used")
    code, out, _ = shell.run("budget", "list", *tenant)
    assert code == 0 and out.splitlines()[1].split()[:4] == ["research", "team", "research", "6h"]
    # a document says the same, and applying it again changes nothing; the amount may be written in another way
    document = shell.run("export", *tenant)[1]
    assert "usd: '20'" in document
    written = tmp_path / "budgets.yaml"
    written.write_text(document.replace("usd: '20'", "usd: 20.00"))
    assert shell.json("plan", "-f", str(written))["changes"] == []
    for arguments, words in (
        (("set", "x"), "exactly one of"),
        (("set", "x", "--calls", "1", "--team", "nobody"), "no team 'nobody'"),
        (
            ("set", "x", "--calls", "1", "--team", "research", "--model", "m"),
            "key, model, shadow or judge",
        ),
        (("set", "x", "--calls", "1", "--window", "fortnight"), "is no window"),
        (("set", "x", "--key", "none", "--calls", "1"), "no key 'none'"),
        (("delete", "none"), "no budget none"),
    ):
        code, _, err = shell.run("budget", *arguments, *tenant)
        assert code == 1 and words in err, err
    assert shell.run("budget", "delete", "research", *tenant)[0] == 0
    assert shell.json("budget", "list", *tenant) == []


def test_a_report_is_by_all_columns_that_are_given(shell: Shell, file: str) -> None:
    shell.run("apply", "-f", file)
    apart, together = (
        shell.json("usage", "-t", "acme", *by) for by in (("--by", "alias", "--by", "model"), ("--by", "alias,model"))
    )
    assert apart["by"] == together["by"] == ["alias", "model"]
    assert shell.json("usage", "-t", "acme")["by"] == ["team", "model"]
    assert shell.json("route", "profiles", "-t", "acme", "--by", "model", "--by", "team")["by"] == ["model", "team"]


def test_policies_are_tested_and_explained(shell: Shell, file: str, tmp_path: Path) -> None:
    shell.run("apply", "-f", file)
    cases = tmp_path / "cases.yaml"
    cases.write_text(CASES)
    code, out, err = shell.run("policy", "test", str(cases))
    assert (code, err) == (3, ""), out  # the cloud source does not offer smollm2 at all
    assert "ok   cases.yaml:3" in out
    assert "FAIL cases.yaml:4" in out
    assert "1 of 2 hold." in out
    code, out, _ = shell.run("policy", "explain", "alice", "smollm2", "-t", "acme")
    assert (code, out.startswith("PERMIT local::smollm2")) == (0, True)
    code, out, _ = shell.run("policy", "explain", "alice", "big", "-t", "acme")
    assert (code, out.startswith("DENY cloud::big")) == (3, True)


def test_policy_tests_need_no_server(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text("cases: [{tenant: acme, as: alice, model: big, data_class: public, expect: deny, because: eu}]")
    assert main(["policy", "test", str(cases), "-f", file]) == 0
    assert "1 of 1 hold." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("key", "list", "-t", "nobody"), "there is no tenant 'nobody'"),
        (("source", "show", "nothing"), "there is no source 'nothing'"),
        (("apply", "-f", "/nowhere/x.yaml"), "/nowhere/x.yaml: cannot be read: No such file or directory"),
        (("source", "list", "--url", "http://127.0.0.1:1"), "cannot be reached"),
        (("source", "list", "--url", "ftp://x"), "is not the URL of an admin API"),
        (("route", "explain", "req_0000000000000000_1"), "the log of this machine has no call"),
        (("route", "explain", "req_nothing"), "is not a request id"),
        (("ledger", "tail", "--since", "soon"), "a number and s, m, h or d"),
    ],
)
def test_a_failure_is_one_line_and_a_code(shell: Shell, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = shell.run(*arguments)
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1
    code, out, _ = shell.run(*arguments, "--json")
    assert code == 1
    assert words in json.loads(out)["error"]["message"]


def test_a_hold_is_added_listed_and_released(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("tenants:\n- {name: held, principals: [{name: heidi}]}\n")
    shell.json("apply", "-f", str(path))
    for command in (("add", "heidi"), ("release", "hld_x")):
        code, _, err = shell.run("ledger", "hold", *command, "-t", "held")
        assert code == 1 and "with a reason" in err
    one = shell.json("ledger", "hold", "add", "heidi", "-t", "held", "-m", "case 1")
    code, out, _ = shell.run("ledger", "hold", "add", "-t", "held", "-m", "case 2")
    assert code == 0 and "everything of held" in out
    code, out, err = shell.run("ledger", "erase", "heidi", "-t", "held", "--yes")
    assert code == 1 and "legal hold" in err
    assert (
        shell.json("ledger", "hold", "release", one["id"], "-t", "held", "-m", "settled")["released_reason"]
        == "settled"
    )
    code, out, _ = shell.run("ledger", "hold", "list", "-t", "held")
    assert code == 0 and one["subject"] in out and "everything" in out and "case 2" in out
    assert [bool(each["released_at"]) for each in shell.json("ledger", "hold", "list", "-t", "held")["items"]] == [
        True,
        False,
    ]


def test_every_fault_of_a_document_is_a_line(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("tenants:\n- {name: '?'}\n- {name: ok, time_zone: Mars}\n")
    code, _, err = shell.run("apply", "-f", str(path))
    lines = err.splitlines()
    assert code == 1
    assert lines[0].startswith(f"interlock: {path}:2: tenants[0].name: '?' is no name")
    assert lines[1].startswith(f"interlock: {path}:3: tenants[1].time_zone")


def test_a_missing_key_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["source", "list", "--home", str(tmp_path)]) == 1
    assert "no admin key: INTERLOCK_ADMIN_KEY is not set" in capsys.readouterr().err


def test_wrong_usage_has_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "list"]) == 2
    assert capsys.readouterr().err == "interlock: Missing option '--tenant' / '-t'.\n"
    assert main(["nonsense"]) == 2
    assert main(["version"]) == 0
