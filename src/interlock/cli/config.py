"""Configuration as code: apply, plan, export."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from interlock.cli.common import AsJson, Ca, Home, Reason, Url, client_of, reason_or
from interlock.cli.output import put, put_json
from interlock.errors import ConfigError

FileNames = Annotated[
    list[str], typer.Option("--file", "-f", help="YAML or JSON file, or - for stdin; may be given again.")
]
_SIGNS = {"create": "+", "update": "~", "delete": "-"}


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("apply")(apply)
    app.command("plan")(plan)
    app.command("export")(export)


def read_files(names: list[str]) -> list[dict[str, str]]:
    """Names and texts of configuration files. Raises ConfigError for one that cannot be read."""
    files = []
    for name in names:
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"{name}: cannot be read: {reason}", param=name) from None
        files.append({"name": "stdin" if name == "-" else name, "text": text})
    return files


def plan(files: FileNames, home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False) -> None:
    """Show what `apply` would do, and change nothing."""
    answer = client_of(home, url, ca).call("POST", "/plan", {"files": read_files(files)})
    if as_json:
        put_json(answer)
    else:
        show_plan(answer, "would be made")


def apply(
    files: FileNames,
    keys_out: Annotated[
        str, typer.Option("--keys-out", help="Write new keys to this file (JSON, 0600) and do not print them.")
    ] = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Make the stored configuration what the files say: all of it or nothing. Doing it again changes nothing."""
    given = read_files(files)
    what = "apply " + ", ".join(f["name"] for f in given)
    answer = client_of(home, url, ca).call("POST", "/apply", {"files": given}, reason=reason_or(reason, what))
    if keys_out:
        write_keys(Path(keys_out), answer["keys"])
    if as_json:
        put_json({**answer, "keys": {}} if keys_out else answer)
        return
    show_plan(answer["plan"], "made")
    for source, error in answer["discovery"].items():
        put(f"warning: source {source}: {error}")
    if keys_out:
        put(f"New keys were written to {keys_out}." if answer["keys"] else "No new keys.")
        return
    for tenant, made in answer["keys"].items():
        for name, key in made.items():
            put(f"new key {name} in {tenant} (shown once): {key}")


def export(
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="Of this tenant only.")] = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Print the stored configuration as a document that `apply` takes."""
    answer = client_of(home, url, ca).call("GET", "/export", query={"tenant": tenant})
    if as_json:
        put_json(answer)
        return
    from interlock.control.parse import write_yaml

    sys.stdout.write(write_yaml(answer))


def show_plan(answer: dict[str, Any], done: str) -> None:
    """A plan as lines, deletions marked with a minus, and a sum."""
    for change in answer["changes"]:
        place = f" in {change['tenant']}" if change["tenant"] and change["kind"] != "tenant" else ""
        fields = f" ({', '.join(change['fields'])})" if change.get("fields") else ""
        put(f"{_SIGNS[change['operation']]} {change['kind']} {change['name']}{place}{fields}")
    for note in answer.get("notes", ()):
        put(f"note: {note}")
    count = len(answer["changes"])
    put("No changes." if not count else f"{count} change{'s' if count > 1 else ''} {done}.")


def write_keys(path: Path, keys: dict[str, Any]) -> None:
    """New keys as JSON {tenant: {name: key}}, joined with those that the file holds already; 0600.

    Raises ConfigError when it cannot be written: the keys are then in its message, as they are shown only once.
    """
    from interlock.control.secrets import write_secret

    held: dict[str, Any] = {}
    try:
        if path.exists():
            held = json.loads(path.read_text())
        for tenant, made in keys.items():
            held.setdefault(tenant, {}).update(made)
        write_secret(path, json.dumps(held, indent=2) + "\n")
    except (OSError, ValueError, AttributeError, ConfigError) as e:
        raise ConfigError(
            f"{path}: the new keys cannot be written there ({e}); they are: {json.dumps(keys)}", param=str(path)
        ) from None
