"""The command and the environment of an engine. Pure.

The key that the engine asks for is in its environment (vLLM) or in a file (llama.cpp), never in its arguments: these
anybody on the machine can read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from interlock.errors import ConfigError

HOST = "127.0.0.1"
_OURS_VLLM = (
    "model",
    "served-model-name",
    "host",
    "port",
    "uds",
    "api-key",
    "config",
    "ssl-keyfile",
    "ssl-certfile",
    "root-path",
)
"""Options of vLLM that are not given by hand: they would open another door, or put a secret where it can be read."""
LLAMACPP_FIELDS: Mapping[str, type] = {
    "n_ctx": int,
    "n_parallel": int,
    "n_batch": int,
    "n_ubatch": int,
    "n_gpu_layers": int,
    "main_gpu": int,
    "n_threads": int,
    "embedding": bool,
    "warmup": bool,
    "swa_full": bool,
    "ctx_shift": bool,
    "chat_template": str,
}
"""Parameters of llama.cpp that may be given as NAME=VALUE, and their types."""
_NOT_PASSED = ("INTERLOCK_",)


class Wanted(NamedTuple):
    """An engine as it was asked for. `gpus`: indexes or UUIDs, empty: what the machine has. `python`: of vLLM."""

    kind: str
    model: Path
    name: str
    port: int
    gpus: tuple[str, ...]
    extra: tuple[str, ...]
    python: str = ""


class Launch(NamedTuple):
    """What is started."""

    arguments: tuple[str, ...]
    environment: dict[str, str]


def check_extra(kind: str, extra: tuple[str, ...]) -> None:
    """Raise ConfigError for an argument that is ours to give, or that the engine does not have."""
    if kind == "llamacpp":
        for argument in extra:
            parse_field(argument)
        return
    for argument in extra:
        name = argument.removeprefix("--").partition("=")[0].replace("_", "-").lower()
        if not argument.startswith("-") or not name:
            continue
        # vLLM takes a beginning of an option for the option
        if any(ours == name or ours.startswith(name) for ours in _OURS_VLLM):
            raise ConfigError(
                f"--extra-arg {argument.partition('=')[0]}: Interlock gives that itself", param="extra-arg"
            )


def parse_field(argument: str) -> tuple[str, int | bool | str]:
    """Name and value of an extra argument of llama.cpp. Raises ConfigError."""
    name, there, text = argument.removeprefix("--").partition("=")
    name = name.replace("-", "_")
    kind = LLAMACPP_FIELDS.get(name)
    if kind is None or not there:
        known = ", ".join(LLAMACPP_FIELDS)
        raise ConfigError(f"--extra-arg {argument}: llama.cpp takes NAME=VALUE with {known}", param="extra-arg")
    if kind is str:
        return name, text
    if kind is bool:
        if text not in ("true", "false"):
            raise ConfigError(f"--extra-arg {argument}: true or false", param="extra-arg")
        return name, text == "true"
    try:
        return name, int(text)
    except ValueError:
        raise ConfigError(f"--extra-arg {argument}: a whole number", param="extra-arg") from None


def parse_gpus(text: str) -> tuple[str, ...]:
    """A list such as 0,1 as a tuple. Raises ConfigError."""
    if not text:
        return ()
    gpus = tuple(part.strip() for part in text.split(","))
    if len(set(gpus)) != len(gpus) or not all(g and all(c.isalnum() or c == "-" for c in g) for g in gpus):
        raise ConfigError(f"--gpus {text}: indexes or UUIDs with commas between them, each once", param="gpus")
    return gpus


def launch(wanted: Wanted, key: str, key_file: Path, environment: Mapping[str, str]) -> Launch:
    """How the engine is started. `environment`: ours, of which the engine gets all but our own settings and secrets."""
    passed = {name: value for name, value in environment.items() if not name.startswith(_NOT_PASSED)}
    if wanted.gpus:
        passed["CUDA_VISIBLE_DEVICES"] = ",".join(wanted.gpus)
    if wanted.kind == "vllm":
        passed |= {"VLLM_API_KEY": key, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        passed |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        return Launch(_vllm(wanted), passed)
    arguments = [sys.executable, "-m", "interlock.cli.engines.llamacpp"]
    arguments += ["--model", str(wanted.model), "--name", wanted.name, "--port", str(wanted.port)]
    arguments += ["--key-file", str(key_file)]
    for argument in wanted.extra:
        arguments += ["--set", argument.removeprefix("--")]
    return Launch(tuple(arguments), passed)


def _vllm(wanted: Wanted) -> tuple[str, ...]:
    arguments = [wanted.python or sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    arguments += ["--model", str(wanted.model), "--served-model-name", wanted.name]
    arguments += ["--host", HOST, "--port", str(wanted.port)]
    named = {a.partition("=")[0].replace("_", "-") for a in wanted.extra}
    if len(wanted.gpus) > 1 and not named & {"--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp"}:
        arguments += ["--tensor-parallel-size", str(len(wanted.gpus))]
    return (*arguments, *wanted.extra)
