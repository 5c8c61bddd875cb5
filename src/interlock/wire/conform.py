"""Whether a JSON value is as a JSON Schema says, as far as structured outputs have it. Pure, with a bound on its work.

Schemas come from callers and values from models, so neither may keep a worker busy: after `STEPS_MAX` steps nothing is
known, and whatever is long takes as many steps as going through it does. Understood are `type`, `enum`, `const`,
`properties`, `required`, `additionalProperties`, `minProperties`, `maxProperties`, `items`, `prefixItems`, `minItems`,
`maxItems`, `uniqueItems`, `minLength`, `maxLength`, `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`,
`multipleOf` (of integers), `anyOf`, `oneOf`, `allOf`, `not`, and `$ref` inside the schema. Another keyword (`pattern`,
`format`, `if`, ...) asserts nothing here; a reference that leads out of the schema, or nowhere, is nothing that can be
held.
"""

from __future__ import annotations

from typing import Any

STEPS_MAX = 20_000
"""Subschemas, properties and items that are looked at in all checks of one answer; a name of `required` and a type of
`type` are one each, as are `CHARACTERS_A_STEP` characters that are compared."""
CHARACTERS_A_STEP = 64
DEPTH_MAX = 100
"""Levels of schemas and values below each other."""


class Unknown(Exception):
    """It cannot be told whether the value is as the schema says."""


def conforms(value: Any, schema: Any) -> bool:
    """Whether `value` (as JSON is decoded) is as `schema` says. Raises Unknown."""
    return Conformity(schema).of(value)


class Conformity:
    """A schema that several values are held against, all within `STEPS_MAX`."""

    def __init__(self, schema: Any) -> None:
        self._root = schema
        self._steps = 0

    def of(self, value: Any) -> bool:
        """Whether this value is as the schema says. Raises Unknown."""
        return self._holds(value, self._root, 0)

    def _holds(self, value: Any, schema: Any, depth: int) -> bool:
        self._step(depth)
        if schema is True or schema is False:
            return bool(schema)
        if not isinstance(schema, dict):
            raise Unknown
        ref = schema.get("$ref")
        if ref is not None and not self._holds(value, self._found(ref), depth + 1):
            return False
        if "type" in schema and not self._is_of(value, schema["type"]):
            return False
        if "enum" in schema and not any(self._same(value, each) for each in _list(schema["enum"])):
            return False
        if "const" in schema and not self._same(value, schema["const"]):
            return False
        return self._combined(value, schema, depth) and self._within(value, schema, depth)

    def _combined(self, value: Any, schema: dict[str, Any], depth: int) -> bool:
        if "allOf" in schema and not all(self._holds(value, each, depth + 1) for each in _list(schema["allOf"])):
            return False
        if "anyOf" in schema and not any(self._holds(value, each, depth + 1) for each in _list(schema["anyOf"])):
            return False
        if "oneOf" in schema and sum(self._holds(value, each, depth + 1) for each in _list(schema["oneOf"])) != 1:
            return False
        return "not" not in schema or not self._holds(value, schema["not"], depth + 1)

    def _within(self, value: Any, schema: dict[str, Any], depth: int) -> bool:
        if isinstance(value, dict):
            return self._object(value, schema, depth)
        if isinstance(value, list):
            return self._array(value, schema, depth)
        if isinstance(value, str):
            return _between(len(value), schema.get("minLength"), schema.get("maxLength"))
        if _is_number(value):
            return _number(value, schema)
        return True

    def _object(self, value: dict[str, Any], schema: dict[str, Any], depth: int) -> bool:
        if not _between(len(value), schema.get("minProperties"), schema.get("maxProperties")):
            return False
        if not all(name in value for name in self._names(schema.get("required", []))):
            return False
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise Unknown
        rest = schema.get("additionalProperties", True)
        if "patternProperties" in schema:
            rest = True  # which names these are is not known here
        return all(self._holds(each, properties.get(name, rest), depth + 1) for name, each in value.items())

    def _array(self, value: list[Any], schema: dict[str, Any], depth: int) -> bool:
        if not _between(len(value), schema.get("minItems"), schema.get("maxItems")):
            return False
        first = _list(schema.get("prefixItems", []))
        rest = schema.get("items", True)
        for place, each in enumerate(value):
            if not self._holds(each, first[place] if place < len(first) else rest, depth + 1):
                return False
        if schema.get("uniqueItems") is True:
            return not any(self._same(a, b) for i, a in enumerate(value) for b in value[:i])
        return True

    def _found(self, ref: Any) -> Any:
        if not isinstance(ref, str) or (ref != "#" and not ref.startswith("#/")):
            raise Unknown
        at = self._root
        self._step(0, len(ref) // CHARACTERS_A_STEP)
        for part in ref.split("/")[1:]:
            self._step(0)
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(at, dict) and name in at:
                at = at[name]
            else:
                raise Unknown
        return at

    def _same(self, a: Any, b: Any, depth: int = 0) -> bool:
        """Equal as JSON has it: `true` is not 1."""
        self._step(depth)
        if isinstance(a, bool) or isinstance(b, bool):
            return a is b
        if isinstance(a, str) and isinstance(b, str):
            self._step(depth, min(len(a), len(b)) // CHARACTERS_A_STEP)
        if isinstance(a, dict) and isinstance(b, dict):
            self._step(depth, min(len(a), len(b)))
            return a.keys() == b.keys() and all(self._same(a[name], b[name], depth + 1) for name in a)
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(self._same(x, y, depth + 1) for x, y in zip(a, b, strict=True))
        return bool(a == b)

    def _is_of(self, value: Any, kinds: Any) -> bool:
        if not isinstance(kinds, list):
            return _is_one(value, kinds)
        self._step(0, len(kinds))
        return any(_is_one(value, kind) for kind in kinds)

    def _names(self, names: Any) -> list[str]:
        """Every name is looked up, so every one counts. Raises Unknown for what is none."""
        self._step(0, len(_list(names)))
        if not all(isinstance(name, str) for name in names):
            raise Unknown
        return list(names)

    def _step(self, depth: int, steps: int = 1) -> None:
        self._steps += steps
        if self._steps > STEPS_MAX or depth > DEPTH_MAX:
            raise Unknown


def _is_one(value: Any, kind: Any) -> bool:
    match kind:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "number":
            return _is_number(value)
        case "integer":
            return _is_number(value) and (isinstance(value, int) or value.is_integer())
        case _:
            raise Unknown


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: float, schema: dict[str, Any]) -> bool:
    if not _between(value, schema.get("minimum"), schema.get("maximum")):
        return False
    low: Any = schema.get("exclusiveMinimum")
    high: Any = schema.get("exclusiveMaximum")
    step: Any = schema.get("multipleOf")
    if _is_number(low) and value <= low:
        return False
    if _is_number(high) and value >= high:
        return False
    whole = isinstance(value, int) and isinstance(step, int) and not isinstance(step, bool) and step > 0
    return not whole or value % step == 0


def _between(size: float, low: Any, high: Any) -> bool:
    return not (_is_number(low) and size < low) and not (_is_number(high) and size > high)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Unknown
    return value
