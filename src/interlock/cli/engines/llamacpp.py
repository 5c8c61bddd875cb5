"""The engine process of llama.cpp: its own HTTP server with one model, in this process.

python -m interlock.cli.engines.llamacpp --model FILE --name NAME --port PORT --key-file FILE [--set NAME=VALUE]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from interlock.cli.engines.launch import HOST, parse_field
from interlock.errors import ConfigError

CONTEXT_PER_SLOT = 2048
SLOTS = 4
_server: object = None


def check_package() -> None:
    """Raise ConfigError naming what to install unless the engine's package is there."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError("llama.cpp needs the extra 'local': pip install 'interlock[local]'", param="kind")


def start(model: Path, name: str, port: int, key: str, fields: Mapping[str, int | bool | str] | None = None) -> None:
    """Start the server on 127.0.0.1:`port`; it loads the model meanwhile and says so on /health. It serves as long as
    this process lives. `key`: what it asks for, "": nothing. Raises ConfigError when the package is missing."""
    check_package()
    import xllamacpp

    given = dict(fields or {})
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {name}
    parameters.hostnames = [HOST]
    parameters.port = port
    parameters.endpoint_metrics = True
    parameters.verbosity = 1
    if key:
        parameters.api_keys = [key]
    # One thread unless told otherwise: on a machine that is busy, two wait for each other most of the time.
    parameters.cpuparams.n_threads = int(given.pop("n_threads", 1))
    parameters.n_parallel = int(given.pop("n_parallel", SLOTS))
    parameters.n_ctx = int(given.pop("n_ctx", CONTEXT_PER_SLOT * parameters.n_parallel))
    for field, value in given.items():
        setattr(parameters, field, value)
    global _server
    _server = xllamacpp.Server(parameters)


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m interlock.cli.engines.llamacpp")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args(arguments)
    # its server's threads do not end by themselves
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fields = dict(parse_field(argument) for argument in given.set)
    start(given.model, given.name, given.port, given.key_file.read_text().strip(), fields)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
