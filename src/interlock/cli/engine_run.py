"""`interlock source run`: an engine on this machine that Interlock starts, watches, restarts and registers."""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from interlock.cli.common import Ca, Home, Url, client_of, listed, settings_of
from interlock.errors import ConfigError

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


class EngineKind(StrEnum):
    """Engines that can be run."""

    vllm = "vllm"
    llamacpp = "llamacpp"


class AtEnd(StrEnum):
    """What becomes of the source when the engine is stopped."""

    keep = "keep"
    remove = "remove"


def run(
    kind: Annotated[EngineKind, typer.Argument(help="Which engine.")],
    model: Annotated[str, typer.Option("--model", help="vLLM: a folder with weights; llama.cpp: a GGUF file.")],
    name: Annotated[str, typer.Option("--name", help="Name of the source; else the model's.")] = "",
    served: Annotated[str, typer.Option("--served-name", help="What callers call the model; else its file name.")] = "",
    port: Annotated[int, typer.Option("--port", help="Port on 127.0.0.1; 0: the last one, or any free one.")] = 0,
    gpus: Annotated[
        list[str] | None, typer.Option("--gpus", help="GPUs by index or UUID, such as 0,1; may be repeated; else all.")
    ] = None,
    extra: Annotated[
        list[str] | None, typer.Option("--extra-arg", help="An argument of the engine; may be repeated.")
    ] = None,
    python: Annotated[str, typer.Option("--python", help="The Python that vLLM is installed for.")] = "",
    granted_to: Annotated[
        list[str] | None, typer.Option("--granted-to", help="A tenant that may be given it (*: all); may be repeated.")
    ] = None,
    region: Annotated[str, typer.Option("--region", help="The source's region.")] = "",
    data_class_max: Annotated[
        str, typer.Option("--data-class-max", help="Highest class of data it may see; else restricted.")
    ] = "",
    at_end: Annotated[
        AtEnd, typer.Option("--at-end", help="What becomes of the source when the engine is stopped.")
    ] = AtEnd.keep,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
) -> None:
    """Run an engine on this machine: start it, watch it, restart it, and offer its model as a source."""
    from pathlib import Path

    from interlock.cli.engines.launch import Wanted, check_extra, parse_gpus
    from interlock.cli.engines.supervise import Asked, EngineSupervisor, python_of_vllm

    if not sys.platform.startswith("linux"):
        raise ConfigError(
            "engines are run on Linux only: start it by other means and register its address", param="kind"
        )
    path = Path(model).expanduser().absolute()
    called = served or _NOT_IN_NAMES.sub("-", path.stem if kind is EngineKind.llamacpp else path.name).strip("-._")
    source = name or _NOT_IN_NAMES.sub("-", called).strip("-._")
    _check_names(called, source)
    if not 0 <= port < 65536:
        raise ConfigError(f"--port {port} is no port", param="port")
    arguments = tuple(extra or ())
    check_extra(kind.value, arguments)
    if kind is EngineKind.llamacpp:
        from interlock.cli.engines.llamacpp import check_package

        check_package()
    wanted = Wanted(
        kind.value,
        path,
        called,
        port,
        parse_gpus(listed(gpus)),
        arguments,
        python_of_vllm(python) if kind is EngineKind.vllm else "",
    )
    asked = Asked(wanted, source, _options(granted_to or [], region, data_class_max), at_end is AtEnd.remove)
    code = EngineSupervisor(settings_of(home), client_of(home, url, ca), asked).run()
    if code:
        raise typer.Exit(code)


def _check_names(model: str, source: str) -> None:
    from interlock.control.validate import MODEL_NAME, NAME

    if MODEL_NAME.fullmatch(model) is None:
        raise ConfigError(f"{model!r} is no model name; --served-name gives another one", param="served-name")
    if NAME.fullmatch(source) is None:
        raise ConfigError(f"{source!r} is no name of a source; --name gives another one", param="name")


def _options(granted_to: list[str], region: str, data_class_max: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if granted_to:
        options["granted_to"] = granted_to
    labels = {"region": region, "data_class_max": data_class_max}
    labels = {field: value for field, value in labels.items() if value}
    if labels:
        options["labels"] = labels
    return options
