"""Configurations of other gateways as configuration documents."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from interlock.cli.common import AsJson, Commands
from interlock.cli.config import read_files
from interlock.cli.output import put, put_json
from interlock.errors import ConfigError

app = Commands(help="Configurations of other gateways.", no_args_is_help=True)


@app.command()
def litellm(
    config: Annotated[str, typer.Argument(help="Configuration file of a LiteLLM proxy, or - for stdin.")],
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="Name of the tenant that gets it.")] = "default",
    output: Annotated[str, typer.Option("--output", "-o", help="Write the document there; else to stdout.")] = "",
    as_json: AsJson = False,
) -> None:
    """Print what a LiteLLM proxy is configured to do as a document that `apply` takes, and list what it cannot say.

    No secret is read or written; no server is asked.
    """
    from interlock.control.litellm import convert
    from interlock.control.parse import write_yaml

    (given,) = read_files([config])
    found = convert(given["text"], file=given["name"], tenant=tenant, environment=os.environ)
    text = write_yaml(found.document)
    if output:
        try:
            Path(output).write_text(text, encoding="utf-8")
        except OSError as e:
            raise ConfigError(f"{output}: cannot be written: {e.strerror}", param=output) from None
    if as_json:
        put_json({"document": found.document, "notes": list(found.notes)})
        return
    if not output:
        sys.stdout.write(text)
    for note in found.notes:
        sys.stderr.write(f"note: {note}\n")
    if output:
        put(f"Written to {output}; {len(found.notes)} notes.")
