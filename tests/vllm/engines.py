"""Real vLLM servers for tests, from the environment that scripts/vllm_setup.py makes under `.vllm/`.

A server is several processes; they share a process group with a small guard (this file as a program) that ends all of
them when the test run dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = ROOT / ".vllm" / "venv" / "bin" / "python"
MODEL_FOLDER = ROOT / ".vllm" / "smollm2-hf"
VERSION = "0.32.0"
MODEL = "smollm2"
ADAPTER = "smollm2-tiny"
CONTEXT = 1024
SLOTS = 2
"""Requests that one instance works on at a time; the others wait in its queue."""
CACHE_BLOCK = 128
"""Tokens in a block of the prefix cache, on CPUs."""
READY_S = 600.0
LOG_SHOWN = 6000
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "NO_COLOR": "1",
}
_PR_SET_PDEATHSIG = 1
_MAKE_ADAPTER = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file

folder = Path(sys.argv[1])
shape = json.loads((Path(sys.argv[2]) / "config.json").read_text())
wide, head = shape["hidden_size"], shape["head_dim"]
outs = {"q_proj": shape["num_attention_heads"] * head, "v_proj": shape["num_key_value_heads"] * head}
torch.manual_seed(7)
weights = {}
for layer in range(shape["num_hidden_layers"]):
    for name, out in outs.items():
        place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
        weights[f"{place}.lora_A.weight"] = (torch.randn(4, wide) * 0.05).to(torch.bfloat16)
        weights[f"{place}.lora_B.weight"] = (torch.randn(out, 4) * 0.05).to(torch.bfloat16)
folder.mkdir()
save_file(weights, folder / "adapter_model.safetensors")
said = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "smollm2", "r": 4, "lora_alpha": 8,
        "lora_dropout": 0.0, "bias": "none", "target_modules": list(outs), "inference_mode": True}
(folder / "adapter_config.json").write_text(json.dumps(said))
"""


def missing() -> str:
    """Why these tests cannot run here, or "" when they can."""
    for path in (PYTHON, MODEL_FOLDER / "model.safetensors"):
        if not path.exists():
            return f"no real vLLM here ({path.relative_to(ROOT)} is missing): run make test-vllm"
    return ""


def make_adapter(folder: Path) -> Path:
    """A LoRA adapter of random weights (rank 4 on two projections, 0.5 MB): no wisdom, but another model."""
    adapter = folder / "adapter"
    subprocess.run(
        [str(PYTHON), "-c", _MAKE_ADAPTER, str(adapter), str(MODEL_FOLDER)],
        check=True,
        capture_output=True,
        env={**os.environ, **_ENVIRONMENT},
    )
    return adapter


@dataclasses.dataclass
class Vllm:
    """One instance: its place, its log, and, while it runs, its processes."""

    name: str
    port: int
    log: Path
    arguments: tuple[str, ...] = ()
    ready_s: float = 0.0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL without a path."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers. Fails with its log when it does not within READY_S."""
        began = time.monotonic()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(os.getpid()), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **_ENVIRONMENT},
                cwd=self.log.parent,
                start_new_session=True,
            )
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() - began > READY_S:
                self.kill()
                raise AssertionError(f"vLLM {self.name} did not become ready:\n{last_words(self.log)}")
            time.sleep(0.5)
        self.ready_s = time.monotonic() - began

    def _command(self) -> list[str]:
        given: dict[str, Any] = {
            "model": MODEL_FOLDER,
            "served-model-name": MODEL,
            "host": "127.0.0.1",
            "port": self.port,
            "max-model-len": CONTEXT,
            "max-num-seqs": SLOTS,
            "dtype": "bfloat16",
        }
        options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        switches = ["--enforce-eager", "--enable-prompt-tokens-details", "--no-use-tqdm-on-load"]
        return [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", *options, *switches, *self.arguments]

    def kill(self) -> None:
        """End all its processes at once, as a machine that loses power would."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def kill_core(self) -> None:
        """End only the process that holds the model; the HTTP server stays for the moment and has to say so."""
        assert self.process is not None
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                pid = int(entry.name)
                ours = os.getpgid(pid) == self.process.pid
                if ours and (entry / "cmdline").read_bytes().startswith(b"VLLM::EngineCore"):
                    os.kill(pid, signal.SIGKILL)
                    return
        raise AssertionError("the engine core was not found")

    def answers(self) -> bool:
        """Whether /health says that all is well."""
        try:
            self.get("/health")
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            return False
        return True

    def get(self, path: str, timeout_s: float = 10) -> bytes:
        """The body of a GET, past the gateway. Raises urllib's errors."""
        with urllib.request.urlopen(self.url + path, timeout=timeout_s) as answer:
            body: bytes = answer.read()
            return body

    def metric(self, name: str) -> float:
        """A figure of its own metrics page, summed over its labels."""
        lines = self.get("/metrics").decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))

    def queue(self) -> tuple[int, int]:
        """(waiting, running) as it says itself."""
        return int(self.metric("vllm:num_requests_waiting")), int(self.metric("vllm:num_requests_running"))

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float = 300) -> bytes:
        """The body of the answer to a JSON request, past the gateway."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            data: bytes = answer.read()
            return data

    def says(self, body: dict[str, Any]) -> str:
        """What the engine itself answers to a chat completion."""
        answer = json.loads(self.post("/v1/chat/completions", {"model": MODEL, **body}))
        return str(answer["choices"][0]["message"]["content"])


def last_words(log: Path) -> str:
    """The end of a log, without the lines of probes and scrapes."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if '"GET /' not in line)[-LOG_SHOWN:]


@contextlib.contextmanager
def ended(instances: list[Vllm]) -> Iterator[None]:
    """Whatever happens inside, none of these runs afterwards."""
    try:
        yield
    finally:
        for instance in instances:
            instance.kill()


def _guard(parent: int, command: list[str]) -> int:
    """Run `command` in this process group until it ends; end the whole group when `parent` is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    if os.getppid() != parent:
        return 1
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(_guard(int(sys.argv[1]), sys.argv[2:]))
