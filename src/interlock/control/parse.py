"""From YAML or JSON text to a `Document`, with the file and line of everything, so that errors can say where.

The YAML read is the JSON-like part of YAML 1.2: `no` and `on` are text, dates are text, a key may occur once, and
anchors may not be used to blow a small file up (`NODES_MAX` counts them written out). JSON is read the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import yaml
from msgspec import UnsetType

from interlock.control.documents import Document, lean
from interlock.errors import ConfigError

DEPTH_MAX = 32
NODES_MAX = 500_000

Path = tuple[str | int, ...]
"""Where a value is in a document: ("tenants", 0, "teams", 1, "name")."""


_SCALARS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("null", re.compile(r"(?:null|~|)")),
    ("bool", re.compile(r"(?:true|false)")),
    ("int", re.compile(r"[-+]?[0-9]{1,40}")),
    ("float", re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")),
)
"""YAML 1.2's core scalars, of which plain text may be one."""


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


def read_yaml(file: str, text: str) -> Any:
    """The one document of a text that is of another form than ours, as plain values; None when it is empty.

    Raises ConfigError with file and line.
    """
    node = _read(file, text)
    return None if node is None else node.value


def dump(document: Document) -> str:
    """The document as YAML, in the order in which the fields are described; reading it gives the document back."""
    return write_yaml(lean(document))


def write_yaml(value: Any) -> str:
    """Plain dicts, lists and scalars as YAML that this reader, and others, read back as they were."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


class _Dumper(yaml.SafeDumper):
    """Quotes what this reader would not take for text, and YAML 1.1 would: `1e3` and `.5` among others."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    quoted = any(pattern.fullmatch(text) for _, pattern in _SCALARS)
    style = "'" if quoted else "|" if "\n" in text else None  # policies over several lines can be read
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


class _Node(NamedTuple):
    """A value with its line (from 1); `children` are nodes by index or key, with the key's line for a mapping."""

    value: Any
    line: int
    children: tuple[tuple[str | int, _Node], ...] = ()


def _read(file: str, text: str) -> _Node | None:
    """The one document of a text, None when it is empty. Raises ConfigError with file and line."""
    try:
        # libyaml's parser gives events one by one: nothing is built of what is nested too deeply
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return _Composer(file, events).document()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}: not valid YAML: {e.problem or e.context}", param=file) from None
    except (yaml.YAMLError, UnicodeError) as e:
        raise ConfigError(f"{file}: not valid YAML: {str(e).splitlines()[0]}", param=file) from None


class _Composer:
    """Events to nodes: refuses duplicate keys, foreign tags, deep nesting, and files blown up with anchors."""

    def __init__(self, file: str, events: Iterable[yaml.Event]) -> None:
        self._file = file
        self._events = iter(events)
        self._anchors: dict[str, tuple[_Node, int]] = {}
        self._nodes = 0

    def document(self) -> _Node | None:
        """The only document."""
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        node = self._node(next(self._events), 0)
        next(self._events)  # the document's end
        extra = next(self._events)
        if not isinstance(extra, yaml.StreamEndEvent):
            raise self._error(extra, "a file holds one document; join several with a list each")
        return node

    def _node(self, event: yaml.Event, depth: int) -> _Node:
        before = self._nodes
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        self._nodes += 1
        if depth > DEPTH_MAX:
            raise self._error(event, f"nested deeper than {DEPTH_MAX}")
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(self._scalar(event), _line(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._plain_tag(event, "seq")
            node = self._sequence(event, depth)
        else:
            self._plain_tag(event, "map")
            node = self._mapping(event, depth)
        anchor = getattr(event, "anchor", None)
        if anchor:
            self._anchors[anchor] = (node, self._nodes - before)
        return node

    def _alias(self, event: yaml.AliasEvent) -> _Node:
        if event.anchor not in self._anchors:
            raise self._error(event, f"found undefined alias {event.anchor!r}")
        node, size = self._anchors[event.anchor]
        self._nodes += size
        if self._nodes > NODES_MAX:
            raise self._error(event, f"more than {NODES_MAX} values, anchors written out")
        return node

    def _sequence(self, start: yaml.Event, depth: int) -> _Node:
        nodes: list[_Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            nodes.append(self._node(event, depth + 1))
        return _Node([n.value for n in nodes], _line(start), tuple(enumerate(nodes)))

    def _mapping(self, start: yaml.Event, depth: int) -> _Node:
        values: dict[str, Any] = {}
        children: list[tuple[str | int, _Node]] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(event, "a key must be text")
            key = str(event.value)
            if key in values:
                raise self._error(event, f"the key {key!r} occurs twice")
            node = self._node(next(self._events), depth + 1)
            values[key] = node.value
            children.append((key, node._replace(line=_line(event))))
        return _Node(values, _line(start), tuple(children))

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text = str(event.value)
        kind = (event.tag or "").removeprefix(_CORE)
        if not event.tag and event.implicit[0]:
            kind = next((name for name, pattern in _SCALARS if pattern.fullmatch(text)), "str")
        if kind in ("str", "", "!"):
            return text
        pattern = dict(_SCALARS).get(kind)
        if pattern is None or not pattern.fullmatch(text):
            raise self._error(event, f"{text!r} cannot be read as {kind}")
        if kind == "null":
            return None
        if kind == "bool":
            return text == "true"
        return int(text) if kind == "int" else float(text)

    def _plain_tag(self, event: yaml.Event, kind: str) -> None:
        tag = getattr(event, "tag", None)
        if tag and tag != _CORE + kind:
            raise self._error(event, f"the tag {tag!r} is not taken")

    def _error(self, event: yaml.Event, reason: str) -> ConfigError:
        return ConfigError(f"{self._file}:{_line(event)}: {reason}", param=self._file)


_CORE = "tag:yaml.org,2002:"


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _merge(merged: dict[str, Any], node: _Node | None, file: str, places: Places) -> None:
    if node is None or node.value is None:
        return
    if not isinstance(node.value, dict):
        raise ConfigError(f"{file}:1: a configuration document is a mapping with tenants, sources, ...", param=file)
    for key, child in node.children:
        name = str(key)
        before = merged.get(name)
        if isinstance(before, list) and isinstance(child.value, list):
            for i, entry in child.children:
                _mark((name, len(before) + int(i)), entry, file, places)
            merged[name] = before + child.value
        elif name in merged and name != "prune":
            raise ConfigError(f"{file}:{child.line}: {name} must be a list", param=name)
        else:
            merged[name] = child.value or before or False if name == "prune" else child.value
            _mark((name,), child, file, places)


def _mark(path: Path, node: _Node, file: str, places: Places) -> None:
    places.put(path, file, node.line)
    for step, child in node.children:
        _mark((*path, step), child, file, places)


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
