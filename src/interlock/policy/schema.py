"""The vocabulary of policies, and validation of what people write against it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import cedarpy

from interlock.errors import ConfigError
from interlock.policy import measured
from interlock.policy.slices import statement_json
from interlock.policy.text import PolicyProblem, Statement, TextError, first_bad_token, place, statements

INFER = "infer"
"""The action every call needs."""
FIELD_ACTIONS = ("use_images", "fetch_remote", "store", "set_priority", "multiply", "change_template")
"""Actions that fields of a request need in addition."""
ACTIONS = (INFER, *FIELD_ACTIONS)

ACTION_WORDS = {
    "infer": "call",
    "use_images": "send images to",
    "fetch_remote": "have remote URLs fetched by",
    "store": "have calls stored at",
    "set_priority": "set priorities at",
    "multiply": "ask for several answers (n, best_of) from",
    "change_template": "change the chat template of",
}
"""Verbs for sentences: "may not <verb> <offer>"."""

DATA_CLASSES = ("public", "internal", "confidential", "restricted")

BASE_PREFIX = "base/"
"""Ids of the policies that ship with Interlock begin with this; nobody else's may."""
BASE_ID = "base/data-class"
BASE_CEDAR = (
    f'@id("{BASE_ID}")\nforbid (principal, action, resource)\nwhen {{ context.data_class > resource.data_class_max }};'
)
"""Holds for every call of every tenant, whatever else is configured."""
BASE_WORDS = "a source never sees data above the class it is labelled for"

SCHEMA_TEXT = Path(__file__).with_name("schema.cedarschema").read_text(encoding="utf-8")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_AT_END = "unexpected end of input"
_POSITION_PREFIX = re.compile(r"^for policy `[^`]*`, ")
_QUOTED = re.compile(r"`([^`]+)`|'([^']+)'")


@functools.cache
def schema() -> cedarpy.Schema:
    """The parsed schema, parsed once per process."""
    return cedarpy.Schema.from_str(SCHEMA_TEXT)


def check_id(policy_id: str) -> None:
    """Raise ConfigError unless this may be the id of a policy that somebody writes."""
    if not _ID.fullmatch(policy_id):
        raise ConfigError(
            f"policy id {policy_id!r}: use 1 to 128 letters, digits, '.', '_', '-', '/', the first a letter or digit",
            param="id",
        )
    if policy_id.startswith(BASE_PREFIX):
        raise ConfigError(
            f"policy id {policy_id!r}: ids that begin with {BASE_PREFIX!r} are reserved for built-in policies",
            param="id",
        )


def validate(cedar_text: str) -> list[PolicyProblem]:
    """Everything that is wrong with a policy text, in the order of the text; empty when it may be stored.

    A text holds one or more statements. Each must parse, refer only to what `schema.cedarschema` declares, with the
    right types, and have no template slots. Lines and columns count from 1.
    """
    try:
        parts = statements(cedar_text)
    except TextError as e:
        return [PolicyProblem(*place(cedar_text, e.offset), e.message)]
    except UnicodeEncodeError:
        return [PolicyProblem(1, 1, "the text is not valid Unicode")]
    if not parts:
        return [PolicyProblem(1, 1, "the text holds no policy statement")]
    problems: list[PolicyProblem] = []
    for part in parts:
        problems += [PolicyProblem(*place(cedar_text, offset), message) for offset, message in _check(part)]
    return problems


def parse_error(text: str) -> str | None:
    """Cedar's message for a text that is not a policy set, or None when it parses."""
    try:
        cedarpy.PolicySet.from_str(text)
    except ValueError as e:
        return str(e)
    return None


def _check(statement: Statement) -> list[tuple[int, str]]:
    for token in statement.tokens:
        if token.kind == "slot":
            return [(token.offset, f"{token.text} is a template slot: name the principal or resource instead")]
    message = parse_error(statement.text)
    if message is not None:
        bad = first_bad_token(statement, parse_error, _AT_END)
        if bad is None:
            return [(_locate(statement, message), message)]
        return [(bad.offset, f"'{bad.text}' is not expected here ({message})")]
    result = cedarpy.validate_policies(statement.text, schema())
    messages = sorted({_POSITION_PREFIX.sub("", e.error) for e in result.errors})
    if not messages:
        wrong = measured.problem(statement_json(statement.text))
        return [(_locate(statement, wrong), wrong)] if wrong else []
    if len(messages) > 1:  # the consequence of an unknown name, said in addition to it, helps nobody
        messages = [m for m in messages if "unable to find an applicable action" not in m] or messages
    return sorted((_locate(statement, message), message) for message in messages)


def _locate(statement: Statement, message: str) -> int:
    """Offset of the first token that the message quotes or ends with; else of the statement."""
    candidates: list[str] = []
    for match in _QUOTED.finditer(message):
        wanted = match[1] or match[2]
        candidates += [wanted, wanted.split("::")[-1], wanted.split("::")[0], f'"{wanted}"']
    for piece in (*candidates, message.rsplit(" ", 1)[-1]):
        for token in statement.tokens:
            if token.text == piece:
                return token.offset
    return statement.offset
