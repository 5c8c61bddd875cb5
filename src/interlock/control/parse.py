"""From YAML or JSON text to a `Document`, with the file and line of everything, so that errors can say where.

The YAML read is the JSON-like part of YAML 1.2: `no` and `on` are text, dates are text, a key may occur once, and
anchors may not be used to blow a small file up (`ALIASES_MAX`). JSON is read the same way: it is YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
import yaml
from msgspec import UnsetType

from interlock.control.documents import Document, lean
from interlock.errors import ConfigError

DEPTH_MAX = 32
ALIASES_MAX = 64
NODES_MAX = 1_000_000

Path = tuple[str | int, ...]
"""Where a value is in a document: ("tenants", 0, "teams", 1, "name")."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's core scalars only."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("bool", r"^(?:true|false)$", ["t", "f"]),
    ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


class Places:
    """The file and line of each value of one or more documents that were merged into one."""

    def __init__(self) -> None:
        self._lines: dict[Path, tuple[str, int]] = {}

    def put(self, path: Path, file: str, line: int) -> None:
        """Remember that the value at `path` begins at this line (counted from 1)."""
        self._lines[path] = (file, line)

    def of(self, path: Path) -> str:
        """ "file:line" of a path, or of the nearest thing around it; empty when nothing is known."""
        while path and path not in self._lines:
            path = path[:-1]
        file, line = self._lines.get(path, ("", 0))
        return f"{file}:{line}" if line else file

    def error(self, path: Path, reason: str) -> ConfigError:
        """A ConfigError that names file, line, path and reason."""
        place = self.of(path)
        where = show(path)
        return ConfigError(": ".join(x for x in (place, where, reason) if x), param=where or place)


def show(path: Path) -> str:
    """A path as people write it: `tenants[0].teams[1].name`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def parse(texts: Iterable[tuple[str, str]]) -> tuple[Document, Places]:
    """One `Document` from (file name, text) pairs, their sections joined in order, and where each part of it is.

    `prune` holds when any file says so. Raises ConfigError with file, line and reason.
    """
    places = Places()
    merged: dict[str, Any] = {}
    for file, text in texts:
        _merge(merged, _read(file, text), file, places)
    try:
        return msgspec.convert(merged, Document), places
    except msgspec.ValidationError as e:
        raise _located(str(e), places) from None


def dump(document: Document) -> str:
    """The document as YAML, in the order in which the fields are described; reading it gives the document back."""
    return yaml.safe_dump(lean(document), sort_keys=False, allow_unicode=True, width=120)


def _read(file: str, text: str) -> tuple[Any, yaml.Node | None]:
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, None
            return _Reader(file).value(node), node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}: not valid YAML: {e.problem or e.context}", param=file) from None
    except (yaml.YAMLError, UnicodeError, RecursionError) as e:
        raise ConfigError(f"{file}: not valid YAML: {str(e).splitlines()[0]}", param=file) from None


class _Reader:
    """Node graph to plain values: refuses duplicate keys, foreign tags, deep nesting and too many aliases."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._nodes = 0
        self._seen: set[int] = set()
        self._aliases = 0

    def value(self, node: yaml.Node, depth: int = 0) -> Any:
        self._nodes += 1
        if depth > DEPTH_MAX:
            raise self._error(node, f"nested deeper than {DEPTH_MAX}")
        if self._nodes > NODES_MAX:
            raise self._error(node, f"more than {NODES_MAX} values")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._seen:
            self._aliases += 1
            if self._aliases > ALIASES_MAX:
                raise self._error(node, f"more than {ALIASES_MAX} uses of anchors")
        self._seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, depth + 1) for child in node.value]
        return self._mapping(node, depth)

    def _mapping(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be text")
            if key.value in out:
                raise self._error(key, f"the key {key.value!r} occurs twice")
            out[key.value] = self.value(child, depth + 1)
        return out

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind == "str":
            return node.value
        if kind == "null":
            return None
        if kind == "bool" and node.value in ("true", "false"):
            return node.value == "true"
        try:
            if kind == "int":
                return int(node.value)
            if kind == "float":
                return float(node.value)
        except ValueError:
            pass
        raise self._error(node, f"{node.value!r} cannot be read as {kind}")

    def _error(self, node: yaml.Node, reason: str) -> ConfigError:
        return ConfigError(f"{self._file}:{node.start_mark.line + 1}: {reason}", param=self._file)


def _merge(merged: dict[str, Any], read: tuple[Any, yaml.Node | None], file: str, places: Places) -> None:
    value, node = read
    if value is None or node is None:
        return
    if not isinstance(value, dict):
        raise ConfigError(f"{file}:1: a configuration document is a mapping with tenants, sources, ...", param=file)
    for key, child in node.value:
        name = key.value
        if name in merged and isinstance(merged[name], list) and isinstance(value[name], list):
            start = len(merged[name])
            merged[name] += value[name]
            for i, entry in enumerate(child.value):
                _mark((name, start + i), entry, file, places)
        elif name in merged and name != "prune":
            raise ConfigError(f"{file}:{key.start_mark.line + 1}: {name} must be a list", param=name)
        else:
            merged[name] = value[name] or merged.get(name, False) if name == "prune" else value[name]
            _mark((name,), child, file, places, key)


def _mark(path: Path, node: yaml.Node, file: str, places: Places, key: yaml.Node | None = None) -> None:
    places.put(path, file, (key or node).start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            _mark((*path, i), child, file, places)
    elif isinstance(node, yaml.MappingNode):
        for name, child in node.value:
            _mark((*path, name.value), child, file, places, name)


_AT = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<path>\$.*?)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]|\[\.\.\.\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def _located(message: str, places: Places) -> ConfigError:
    """msgspec's message with its `$.path` turned into file and line."""
    match = _AT.match(message)
    reason, path_text = (match["reason"], match["path"] or "") if match else (message, "")
    path: Path = tuple(
        m[1] if m[1] is not None else int(m[2]) for m in _STEP.finditer(path_text) if m[1] or m[2] is not None
    )
    unknown = _UNKNOWN.match(reason)
    if unknown:
        path = (*path, unknown[1])
        reason = "unknown field; docs/configuration.md lists the known ones"
    return places.error(path, reason.replace("`", "'"))


def is_set(value: object) -> bool:
    """Whether a section was given at all."""
    return not isinstance(value, UnsetType)
