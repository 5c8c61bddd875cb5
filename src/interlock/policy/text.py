"""Cedar policy text as text: tokens, statements, positions, limits and quoting. Nothing is evaluated here.

Cedar's parser gives no positions through its Python binding and its recursion is not bounded, so both are handled
before it sees the text: `statements` splits and bounds what was written, and `first_bad_token` finds where a
statement stops being Cedar.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

TEXT_BYTES_MAX = 65_536
"""Largest policy text taken, in UTF-8 bytes."""
STATEMENTS_MAX = 64
"""Most statements in one policy text."""
DEPTH_MAX = 32
"""Deepest nesting of brackets in a statement."""
OPERATORS_MAX = 256
"""Most operators in a statement. Cedar's parser recurses per operator: thousands of them exhaust the C stack."""

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9]+)
      | (?P<slot>\?[A-Za-z_]+)
      | (?P<sign>::|==|!=|<=|>=|&&|\|\||[@(){}\[\],;:.<>+\-*!=%/])
      | (?P<bad>.)""",
    re.VERBOSE | re.DOTALL,
)
_OPERATOR_SIGNS = frozenset({"==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "!", ".", "[", "{", "("})
_OPERATOR_NAMES = frozenset({"in", "has", "like", "is", "if", "then", "else"})
_CLOSES = {")": "(", "]": "[", "}": "{"}


class PolicyProblem(NamedTuple):
    """What is wrong with a policy text and where. Lines and columns count from 1."""

    line: int
    column: int
    message: str


class Token(NamedTuple):
    """One token of a statement, with where it begins in the whole text (characters, from 0)."""

    kind: str
    text: str
    offset: int


class Statement(NamedTuple):
    """One `permit` or `forbid` with its annotations: its text up to and including the semicolon, and its tokens."""

    text: str
    offset: int
    tokens: tuple[Token, ...]


class TextError(ValueError):
    """The text is refused before Cedar sees it. `offset` is where, in characters from 0."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


def statements(text: str) -> tuple[Statement, ...]:
    """The statements of a policy text, in order.

    Raises TextError when the text is larger, deeper or longer than the limits above, has an unclosed string or an
    unmatched bracket, or ends inside a statement.
    """
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise TextError(f"the policy text is larger than {TEXT_BYTES_MAX} bytes", 0)
    found: list[Statement] = []
    tokens: list[Token] = []
    for token in _tokens(text):
        tokens.append(token)
        if token.text == ";" and token.kind == "sign":
            _check_shape(tokens)
            begin, end = tokens[0].offset, token.offset + 1
            found.append(Statement(text[begin:end], begin, tuple(tokens)))
            tokens = []
            if len(found) > STATEMENTS_MAX:
                raise TextError(f"more than {STATEMENTS_MAX} statements in one policy", begin)
    if tokens:
        raise TextError("the last statement does not end with a semicolon", tokens[-1].offset)
    return tuple(found)


def _tokens(text: str) -> list[Token]:
    found = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "bad"
        if kind == "space":
            continue
        if kind == "bad":
            what = (
                "an unclosed string" if match.group() == '"' else f"a character that Cedar does not know: {match[0]!r}"
            )
            raise TextError(what, match.start())
        found.append(Token(kind, match.group(), match.start()))
    return found


def pieces(text: str) -> list[tuple[str, str]]:
    """The whole text in pieces of (kind, text), for showing it: "name", "string", "number", "sign", "slot", "comment",
    "space", "bad". Any text is taken."""
    found = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "bad"
        found.append(("comment" if kind == "space" and match.group().startswith("//") else kind, match.group()))
    return found


def _check_shape(tokens: list[Token]) -> None:
    open_brackets: list[Token] = []
    operators = 0
    for token in tokens:
        if token.kind == "sign":
            operators += token.text in _OPERATOR_SIGNS
            if token.text in "([{":
                open_brackets.append(token)
                if len(open_brackets) > DEPTH_MAX:
                    raise TextError(f"brackets nested deeper than {DEPTH_MAX}", token.offset)
            elif token.text in _CLOSES:
                if not open_brackets or open_brackets[-1].text != _CLOSES[token.text]:
                    raise TextError(f"'{token.text}' closes nothing that is open", token.offset)
                open_brackets.pop()
        elif token.kind == "name":
            operators += token.text in _OPERATOR_NAMES
        if operators > OPERATORS_MAX:
            raise TextError(f"more than {OPERATORS_MAX} operators in one statement: split it", token.offset)
    if open_brackets:
        raise TextError(f"'{open_brackets[-1].text}' is never closed", open_brackets[-1].offset)


def place(text: str, offset: int) -> tuple[int, int]:
    """(line, column), both from 1, of a character offset."""
    line = text.count("\n", 0, offset) + 1
    return line, offset - (text.rfind("\n", 0, offset) + 1) + 1


def first_bad_token(statement: Statement, parse_error: Callable[[str], str | None], at_end: str) -> Token | None:
    """The token at which a statement stops being Cedar, or None when only the whole of it is refused.

    `parse_error(text)` is the parser's message for a text, or None. A prefix that could still become a statement
    fails with `at_end` in its message; the first prefix that fails otherwise ends in the token at fault. This holds
    for every longer prefix too, so it is found by bisection.
    """

    def broken(count: int) -> bool:
        last = statement.tokens[count - 1]
        message = parse_error(statement.text[: last.offset - statement.offset + len(last.text)])
        return message is not None and at_end not in message

    low, high = 1, len(statement.tokens) - 1
    if high < 1 or not broken(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if broken(middle):
            high = middle
        else:
            low = middle + 1
    return statement.tokens[low - 1]


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}


def quote(value: str) -> str:
    """A Cedar string literal that reads back as exactly `value`."""
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in value) + '"'


def pattern(value: str) -> str:
    """A Cedar `like` pattern: `*` in `value` stands for any text, every other character for itself."""
    return quote(value)


def entity(kind: str, name: str) -> str:
    """An entity in policy text, e.g. `Team::"research"`."""
    return f"{kind}::{quote(name)}"
