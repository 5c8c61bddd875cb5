"""Policies: a company's expectations as tests, and explanations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli import policy_life
from interlock.cli.common import AsJson, Ca, Commands, Home, InTenant, Url, client_of
from interlock.cli.config import read_files
from interlock.cli.output import put, put_json
from interlock.errors import ConfigError

app = Commands(help="Policies.", no_args_is_help=True)
policy_life.add_to(app)
NOT_HELD = 3
"""Exit code when a case did not come out as expected."""


@app.command()
def test(
    file: Annotated[str, typer.Argument(help="YAML file with cases.")],
    config: Annotated[
        list[str] | None,
        typer.Option("--file", "-f", help="Decide on these files, without a server; else on what is stored."),
    ] = None,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Check expectations: who may use which model, and because of which policy."""
    text = read_files([file])[0]["text"]
    answer = (
        _locally(file, text, config)
        if config
        else client_of(home, url, ca).call("POST", "/policy-test", {"name": file, "text": text})
    )
    if as_json:
        put_json(answer)
    else:
        for result in answer["results"]:
            mark = "ok  " if result["passed"] else "FAIL"
            put(f"{mark} {Path(file).name}:{result['line']} {result['name']}")
            if not result["passed"]:
                put(f"     {result['words']}")
        put(f"{answer['passed']} of {answer['cases']} hold.")
    if answer["failed"]:
        raise typer.Exit(NOT_HELD)


@app.command()
def explain(
    principal: Annotated[str, typer.Argument(help="Who calls.")],
    tenant: InTenant,
    model: Annotated[str, typer.Argument(help="Which model; every model when left out.")] = "",
    acting_for: Annotated[str, typer.Option("--acting-for", help="The user that an agent was delegated by.")] = "",
    source: Annotated[str, typer.Option(help="At this source only.")] = "",
    operation: Annotated[str, typer.Option(help="chat, completions, embeddings, rerank or score.")] = "chat",
    data_class: Annotated[str, typer.Option(help="public, internal, confidential or restricted.")] = "internal",
    feature: Annotated[list[str] | None, typer.Option(help="Field action that the request asks for.")] = None,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Say whether a call would be permitted, and which rules decide it. Exit code 3 when it is denied."""
    question: dict[str, Any] = {
        "principal": principal,
        "acting_for": acting_for,
        "model": model,
        "source": source,
        "operation": operation,
        "data_class": data_class,
        "features": feature or [],
    }
    answer = client_of(home, url, ca).call("POST", f"/tenants/{quote(tenant, safe='')}/explain", question)
    if as_json:
        put_json(answer)
    else:
        put(*answer["lines"])
    if not answer["permitted"]:
        raise typer.Exit(NOT_HELD)


def _locally(file: str, text: str, config: list[str]) -> dict[str, Any]:
    import time

    import msgspec

    from interlock.control.documents import lean
    from interlock.control.explain import told
    from interlock.control.parse import parse
    from interlock.metering.cost import bound_nusd
    from interlock.policy import testfile
    from interlock.policy.world import from_document

    document, _ = parse((f["name"], f["text"]) for f in read_files(config))
    plain = lean(document)
    if not isinstance(plain, dict):
        raise ConfigError("the configuration is empty", param=config[0])
    results = testfile.run(testfile.parse(text, file), from_document(plain), time.time_ns(), bound_nusd)
    answer: dict[str, Any] = msgspec.to_builtins(told(results))
    return answer
