"""Which files a model's weights are, and the digest that stands for them.

Of a GGUF file it is its SHA-256. Of a folder it is the SHA-256 of the list that `sha256sum` prints of its weight files
in the order of their names, so that anybody can check it with two commands:

    sha256sum model.gguf
    cd FOLDER && LC_ALL=C && sha256sum *.safetensors | sha256sum
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from interlock.control.secrets import write_secret
from interlock.errors import ConfigError, Unavailable

PREFIX = "sha256:"
_PIECE = 4 << 20
_PATTERNS = ("*.safetensors", "*.bin", "*.pt")
"""In a folder the first of these that any file has."""


def weight_files(model: Path, kind: str) -> tuple[Path, ...]:
    """The files of a model, in the order in which they are hashed. Raises ConfigError when there are none: nothing is
    fetched from anywhere."""
    if kind == "llamacpp":
        if not model.is_file():
            raise ConfigError(f"--model {model}: llama.cpp takes a GGUF file, and there is none", param="model")
        with model.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ConfigError(f"--model {model} is no GGUF file", param="model")
        return (model,)
    if not (model / "config.json").is_file():
        raise ConfigError(
            f"--model {model}: vLLM takes a folder with config.json and weights; a model is not fetched by its name",
            param="model",
        )
    for pattern in _PATTERNS:
        found = sorted((f for f in model.glob(pattern) if f.is_file()), key=lambda f: f.name.encode())
        if found:
            return tuple(found)
    raise ConfigError(f"--model {model} holds no weights (*.safetensors)", param="model")


def signature(files: tuple[Path, ...]) -> list[list[str | int]]:
    """Name, size, times and inode of each file: what tells that a file is not the one it was. Raises ConfigError."""
    try:
        return [
            [str(f), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev]
            for f, s in ((f, f.stat()) for f in files)
        ]
    except OSError as e:
        raise ConfigError(f"the weights cannot be read: {e.strerror}: {e.filename}", param="model") from None


def digest(files: tuple[Path, ...], *, single: bool, stopped: Callable[[], bool]) -> str:
    """The digest, as sha256:... `single`: of the one file itself. Raises ConfigError, Unavailable when stopped."""
    sums = [(f.name, _sum(f, stopped)) for f in files]
    if single:
        return PREFIX + sums[0][1]
    listed = "".join(f"{value}  {name}\n" for name, value in sums)
    return PREFIX + hashlib.sha256(listed.encode()).hexdigest()


def _sum(file: Path, stopped: Callable[[], bool]) -> str:
    running = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE):
                running.update(piece)
                if stopped():
                    raise Unavailable("stopped while the weights were read")
    except OSError as e:
        raise ConfigError(f"{file}: cannot be read: {e.strerror}", param="model") from None
    return running.hexdigest()


class Version:
    """The digest of a model's files, computed again only when the files are others. `memory`: where it is kept over
    restarts, in a folder that nobody else can write to."""

    def __init__(self, model: Path, kind: str, memory: Path) -> None:
        self.files = weight_files(model, kind)
        self._single = kind == "llamacpp"
        self._memory = memory

    def now(self, stopped: Callable[[], bool]) -> str:
        """The digest of the files as they are. Raises ConfigError, Unavailable."""
        seen = signature(self.files)
        try:
            known = json.loads(self._memory.read_text())
            if known["files"] == seen and str(known["digest"]).startswith(PREFIX):
                return str(known["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        value = digest(self.files, single=self._single, stopped=stopped)
        if signature(self.files) != seen:
            raise ConfigError("the weights were changed while they were read", param="model")
        write_secret(self._memory, json.dumps({"files": seen, "digest": value}))
        return value
