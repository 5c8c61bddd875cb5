"""Requests that judge how well texts belong together: `rerank` orders documents by a query, `score` scores pairs.

Source: vLLM's "Score API" and "Re-rank API" (0.32), the latter as Jina and Cohere have it; llama.cpp's server has
`/v1/rerank` too. Texts only: what else vLLM takes as an input would be images that nobody has looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from interlock.errors import BadRequest
from interlock.types.source import Ability

if TYPE_CHECKING:
    from interlock.wire.openai import Fields, Limits

OPERATIONS = (Ability.rerank.value, Ability.score.value)
PAIRS = (("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"))
"""How the two sides of a score request may be named; vLLM takes each."""
INPUTS = frozenset(("query", "documents", *(name for pair in PAIRS for name in pair)))
"""Fields that hold what is judged."""


class Texts(msgspec.Struct):
    """What is to be judged, in tokens at most; `parameters` are recorded."""

    prompt_tokens_max: int
    prompt_bytes: int
    parameters: dict[str, Any]


class _Rerank(msgspec.Struct):
    query: str
    documents: list[str]
    top_n: int | None = None


_rerank = msgspec.json.Decoder(_Rerank)
_texts = msgspec.json.Decoder(str | list[str])


def read(operation: str, body: bytes, top: Fields, limits: Limits) -> Texts:
    """Read the texts of a request. Raises BadRequest, and msgspec.ValidationError for what is no such request.

    The model reads the query, or the first text, once with each of the others: it counts as often.
    """
    if operation == Ability.rerank.value:
        asked = _rerank.decode(body)
        if asked.top_n is not None and asked.top_n < 0:
            raise BadRequest("Field 'top_n' must not be below 0.", param="top_n")
        sides = ("query", "documents")
        pairs = _pairs(1, len(asked.documents), sides, limits)
        parameters = {"top_n": asked.top_n} if asked.top_n else {}
    else:
        sides = _named(top)
        first, second = (_count(name, top) for name in sides)
        pairs = _pairs(first, second, sides, limits)
        parameters = {}
        if first > 1:
            return _total(sides, top, 1, pairs, parameters, limits)
    return _total(sides, top, pairs, pairs, parameters, limits)


def _total(
    sides: tuple[str, str], top: Fields, repeats: int, pairs: int, parameters: dict[str, Any], limits: Limits
) -> Texts:
    first, second = (len(memoryview(top[name])) for name in sides)
    tokens = first * repeats + second + limits.template_tokens_per_message * pairs
    return Texts(tokens, first * repeats + second, parameters)


def _named(top: Fields) -> tuple[str, str]:
    given = [pair for pair in PAIRS if any(name in top for name in pair)]
    if len(given) == 1 and all(name in top for name in given[0]):
        return given[0]
    raise BadRequest("Give the texts to score as text_1 and text_2, and under no other names.", param="text_1")


def _count(name: str, top: Fields) -> int:
    try:
        texts = _texts.decode(bytes(top[name]))
    except msgspec.ValidationError:
        raise BadRequest(f"Field {name!r} must hold a text or a list of texts.", param=name) from None
    return 1 if isinstance(texts, str) else len(texts)


def _pairs(first: int, second: int, sides: tuple[str, str], limits: Limits) -> int:
    if not second or not first:
        raise BadRequest(f"Field {sides[1] if first else sides[0]!r} must not be empty.", param=sides[1])
    if first not in (1, second):
        raise BadRequest(f"Fields {sides[0]!r} and {sides[1]!r} must hold as many texts.", param=sides[1])
    if second > limits.messages_max:
        raise BadRequest(f"At most {limits.messages_max} texts are taken in field {sides[1]!r}.", param=sides[1])
    return second
