"""The life of policies: drafts, approval, activation, versions, what-if and reports."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli.client import AdminClient
from interlock.cli.common import AsJson, Ca, Home, Reason, Url, client_of, reason_or
from interlock.cli.config import read_files
from interlock.cli.output import put, put_json, table
from interlock.errors import ConfigError

Place = Annotated[str, typer.Option("--tenant", "-t", help="Whose policies; the platform's when left out.")]
Since = Annotated[str, typer.Option(help="Calls from then on: 90m, 24h, 7d, or an ISO 8601 time; all when left out.")]
Until = Annotated[str, typer.Option(help="Calls before then; now when left out.")]
Examples = Annotated[int, typer.Option(help="How many changed decisions and calls are listed.", min=0, max=10_000)]
ConfigFiles = Annotated[
    list[str] | None, typer.Option("--file", "-f", help="Configuration file whose policies are the whole set.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("draft")(draft)
    app.command("report-only")(report_only)
    app.command("approve")(approve)
    app.command("activate")(activate)
    app.command("history")(history)
    app.command("rollback")(rollback)
    app.command("what-if")(what_if)
    app.command("report")(report)
    app.command("diff")(diff)


def draft(
    tenant: Place = "",
    files: ConfigFiles = None,
    version: Annotated[int, typer.Option(help="Draft what this earlier version was.")] = 0,
    discard: Annotated[bool, typer.Option("--discard", help="Give the draft up.")] = False,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Show the draft; with --file or --version write it: the whole set of policies that is proposed."""
    client, path = client_of(home, url, ca), _at(tenant, "/policy-draft")
    if sum((bool(files), bool(version), discard)) > 1:
        raise ConfigError("give one of --file, --version and --discard", param="file")
    if discard:
        answer = client.call("DELETE", path, reason=reason_or(reason, "discard the draft"))
        put_json(answer) if as_json else put("The draft is given up.")
        return
    if files:
        body: dict[str, Any] = {"policies": _declared(files, tenant)}
        answer = client.call("PUT", path, body, reason=reason_or(reason, "draft " + ", ".join(files)))
    elif version:
        why = reason_or(reason, f"draft version {version}")
        answer = client.call("PUT", path, {"version": version}, reason=why)
    else:
        answer = client.call("GET", path)
    _show_draft(answer, as_json)


def report_only(
    tenant: Place = "",
    off: Annotated[bool, typer.Option("--off", help="Evaluate it no longer.")] = False,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Evaluate the draft for real calls beside what is in force. It decides nothing."""
    path, why = _at(tenant, "/policy-draft/report-only"), reason_or(reason, "report only")
    _show_draft(client_of(home, url, ca).call("POST", path, {"on": not off}, reason=why), as_json)


def approve(
    digest: Annotated[str, typer.Argument(help="Digest of the draft that was looked at.")],
    tenant: Place = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Approve of the draft as a second person. A draft that is changed afterwards needs a new approval."""
    path, why = _at(tenant, "/policy-draft/approve"), reason_or(reason, f"approve {digest[:12]}")
    _show_draft(client_of(home, url, ca).call("POST", path, {"digest": digest}, reason=why), as_json)


def activate(
    digest: Annotated[str, typer.Argument(help="Digest of the draft.")],
    tenant: Place = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Put the draft in force. Gateways follow within a second."""
    path, why = _at(tenant, "/policy-draft/activate"), reason_or(reason, f"activate {digest[:12]}")
    _show_activated(client_of(home, url, ca).call("POST", path, {"digest": digest}, reason=why), as_json)


def history(
    tenant: Place = "",
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=1000)] = 50,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """List the versions: who changed what when, and why."""
    found = client_of(home, url, ca).call("GET", _at(tenant, "/policy-versions"), query={"limit": limit})
    if as_json:
        put_json(found)
        return
    rows = [
        (
            v["number"],
            v["at"],
            v["origin"] + (f" to {v['of_number']}" if v["of_number"] else ""),
            v["author"],
            ", ".join(v["approved_by"]),
            len(v["policies"]),
            v["reason"],
        )
        for v in found["items"]
    ]
    table(rows, ("version", "at", "by way of", "who", "approved by", "policies", "reason"))


def rollback(
    version: Annotated[int, typer.Argument(help="Number of the version that is put in force again.")],
    tenant: Place = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Put an earlier version in force again, as a new one."""
    path, why = _at(tenant, f"/policy-versions/{version}/rollback"), reason_or(reason, f"roll back to {version}")
    _show_activated(client_of(home, url, ca).call("POST", path, {}, reason=why), as_json)


def what_if(
    tenant: Place = "",
    files: ConfigFiles = None,
    drafted: Annotated[bool, typer.Option("--draft", help="Ask about the draft; so it is without --file.")] = False,
    since: Since = "",
    until: Until = "",
    examples: Examples = 20,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """What other policies would decide, for every caller and for logged calls. Nothing is changed."""
    if drafted and files:
        raise ConfigError("give --file or --draft, not both", param="file")
    body: dict[str, Any] = {"since_ns": instant(since), "until_ns": instant(until), "examples": examples}
    if files:
        body["policies"] = _declared(files, tenant)
    answer = client_of(home, url, ca).call("POST", _at(tenant, "/policy-what-if"), body)
    if as_json:
        put_json(answer)
        return
    put(*(f"{_SIGNS[how]} policy {name}" for name, how in answer["policies"]))
    cells, calls = answer["matrix"], answer["traffic"]
    put(f"Of {cells['cells']} decisions {cells['denied']} would be denied, {cells['permitted']} permitted instead.")
    if not cells["whole"]:
        put("There are more than what_if_cells_max: the others were not compared.")
    for cell in cells["examples"]:
        ask = "" if cell["action"] == "infer" else f", {cell['action']}"
        many = f" and {cell['alike'] - 1} like them" if cell["alike"] > 1 else ""
        put(f"  {cell['becomes']} {_who(cell)}{many} -> {cell['offer']} ({cell['data_class']}{ask}): {cell['why']}")
    put(
        f"Of {calls['calls']} logged calls {calls['denied']} would be denied, {calls['permitted']} permitted,"
        f" {calls['other']} could go elsewhere."
    )
    _show_calls(calls, "becomes")


def report(
    tenant: Place = "",
    since: Since = "",
    until: Until = "",
    examples: Examples = 20,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """What policies that only report would have changed, as it was recorded with each call."""
    query: dict[str, object] = {"since_ns": instant(since), "until_ns": instant(until), "examples": examples}
    answer = client_of(home, url, ca).call("GET", _at(tenant, "/policy-report"), query=query)
    if as_json:
        put_json(answer)
        return
    if not answer["digest"]:
        put("No policies report now.")
        return
    put(
        f"{answer['digest'][:12]}: of {answer['calls']} calls {answer['denied']} would have been denied,"
        f" {answer['permitted']} permitted, {answer['other']} could have gone elsewhere."
    )
    _show_calls(answer, "would")


def diff(
    before: Annotated[str, typer.Argument(help="active, draft, the number of a version, or a configuration file.")],
    after: Annotated[str, typer.Argument(help="The same.")],
    tenant: Place = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Two sets of policies as a unified diff, each policy written in one way."""
    from interlock.policy.canonical import difference

    old, new = (_shown(name, tenant, home, url, ca) for name in (before, after))
    lines = difference(old, new, (before, after))
    if as_json:
        put_json({"differs": bool(lines), "diff": lines})
    elif lines:
        put(*lines)
    else:
        put("No difference.")


_SIGNS = {"create": "+", "update": "~", "delete": "-"}


def _at(tenant: str, path: str) -> str:
    return f"/tenants/{quote(tenant, safe='')}{path}" if tenant else path


def _declared(files: list[str], tenant: str) -> list[dict[str, Any]]:
    """The policies of a tenant ("": of the platform) in configuration files, as they are declared."""
    from interlock.control.documents import lean, section
    from interlock.control.parse import is_set, parse

    document, _ = parse((f["name"], f["text"]) for f in read_files(files))
    found = document.policies
    if tenant:
        own = next((t for t in section(document.tenants) if t.name == tenant), None)
        if own is None:
            raise ConfigError(f"{', '.join(files)}: there is no tenant {tenant!r}", param="tenant")
        found = own.policies
    if not is_set(found):
        whose = f"tenant {tenant!r}" if tenant else "the platform"
        raise ConfigError(f"{', '.join(files)}: no section `policies` of {whose}", param="policies")
    return [lean(policy) for policy in section(found)]


def _shown(name: str, tenant: str, home: str, url: str, ca: str) -> list[Any]:
    """One side of a diff."""
    from interlock.policy.canonical import Shown

    if name in ("active", "draft") or (name.isdecimal() and not Path(name).exists()):
        client = client_of(home, url, ca)
        if name == "draft":
            found = client.call("GET", _at(tenant, "/policy-draft"))["policies"]
        else:
            found = _version(client, tenant, int(name) if name != "active" else 0)
        return [Shown(p["id"], p["cedar"], p.get("words", ""), p.get("report_only", False)) for p in found]
    import msgspec

    from interlock.control.documents import PolicySpec
    from interlock.control.lifecycle import written

    specs = [msgspec.convert(policy, PolicySpec) for policy in _declared([name], tenant)]
    return [Shown(p.id, p.cedar, p.words, p.report_only) for p in written(specs)]


def _version(client: AdminClient, tenant: str, number: int) -> list[dict[str, Any]]:
    """The policies of a version; 0: of the one in force."""
    path = _at(tenant, "/policy-versions")
    if not number:
        newest = client.call("GET", path, query={"limit": 1})["items"]
        if not newest:
            return []
        number = newest[0]["number"]
    found: list[dict[str, Any]] = client.call("GET", f"{path}/{number}")["policies"]
    return found


def instant(text: str) -> int:
    """Unix nanoseconds of "24h" (ago), or of an ISO 8601 time; 0 for ""."""
    if not text:
        return 0
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    now = datetime.datetime.now(datetime.UTC)
    try:
        if text[-1] in units and text[:-1].isdecimal():
            at = now - datetime.timedelta(seconds=int(text[:-1]) * units[text[-1]])
        else:
            at = datetime.datetime.fromisoformat(text)
            at = at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)
        return max(1, int(at.timestamp()) * 1_000_000_000)
    except (ValueError, OverflowError):
        raise ConfigError(f"{text!r} is not a time: 90m, 24h, 7d or 2026-05-01T08:00", param="since") from None


def _who(entry: dict[str, Any]) -> str:
    return f"{entry['principal']} for {entry['acting_for']}" if entry["acting_for"] else str(entry["principal"])


def _show_calls(found: dict[str, Any], how: str) -> None:
    if not found["whole"]:
        put("The period has more calls than what_if_calls_max: the older ones were not looked at.")
    for name, count in found["by"].items():
        put(f"  {count} of {name}")
    for call in found["examples"]:
        put(f"  {call[how]} {call['request']} {_who(call)} -> {call['model']}: {'; '.join(call['why'])}")


def _show_draft(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        put_json(answer)
        return
    put(f"Draft {answer['digest']} on version {answer['base']}" + (", reporting" if answer["report_only"] else ""))
    for change in answer["changes"]:
        put(f"{_SIGNS[change['operation']]} policy {change['name']}")
    if not answer["changes"]:
        put("It is what is in force.")
    if not answer["current"]:
        put("Other policies came in force since: draft it again.")
    for approval in answer["approvals"]:
        put(f"Approved by {approval['by']}: {approval['reason']}")
    if answer["approval_needed"] and not answer["approvals"]:
        put("It needs the approval of a second person.")


def _show_activated(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        put_json(answer)
        return
    for change in answer["changes"]:
        put(f"{_SIGNS[change['operation']]} policy {change['name']}")
    put(f"Version {answer['version']} is in force.")
