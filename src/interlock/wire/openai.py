"""Requests of the OpenAI dialect: read, checked, and turned into features.

Source: OpenAI API reference, "Create chat completion", "Create completion", "Create embeddings"; vLLM and
llama.cpp follow it. A body is read twice: once into top-level fields kept as raw JSON, which is what is sent on
(so that a source reads exactly the fields that were checked: a repeated name cannot mean two things), and once
into the typed fields that decisions need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from interlock.errors import BadRequest
from interlock.types.identity import DataClass, Workload
from interlock.types.request import Features
from interlock.types.slo import SLO_MS_MAX, SLO_USD_MAX, WEIGHT_MAX
from interlock.types.source import Ability
from interlock.wire import fields, rerank, strict

Raw = msgspec.Raw
Fields = dict[str, Raw]
Bound = Annotated[int, msgspec.Meta(le=2**31 - 1)]
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Message(msgspec.Struct):
    """Of a message what decisions look at."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class OwnSlo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a caller asks of where its call goes."""

    ttft_ms: Annotated[int, msgspec.Meta(ge=1, le=SLO_MS_MAX)] | None = None
    latency_ms: Annotated[int, msgspec.Meta(ge=1, le=SLO_MS_MAX)] | None = None
    cost_usd: Annotated[float, msgspec.Meta(ge=0, le=SLO_USD_MAX)] | None = None
    strict: bool = False


class OwnWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a caller has its call decided by: what counts is how they stand to each other."""

    quality: Annotated[int, msgspec.Meta(ge=0, le=WEIGHT_MAX)] = 0
    cost: Annotated[int, msgspec.Meta(ge=0, le=WEIGHT_MAX)] = 0
    latency: Annotated[int, msgspec.Meta(ge=0, le=WEIGHT_MAX)] = 0
    energy: Annotated[int, msgspec.Meta(ge=0, le=WEIGHT_MAX)] = 0


class Own(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"request_class": "class"}):
    """The `interlock` body field."""

    data_class: str = ""
    purpose: str = ""
    mode: str = ""
    request_class: str = ""
    recording: str = ""
    batch: str = ""
    document: str = ""
    chunk: int | None = None
    chunks: int | None = None
    workload: str = ""
    slo: OwnSlo | None = None
    weights: OwnWeights | None = None


NO_OWN = Own()


class _Common(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Bound | None = None
    n: int | None = None
    interlock: Own | None = None
    logprobs: bool | int | None = None
    response_format: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: Seed | None = None


class _Chat(_Common):
    messages: list[Message] = []
    max_completion_tokens: Bound | None = None
    tools: list[Raw] | None = None
    functions: list[Raw] | None = None
    tool_choice: Raw = Raw()
    top_logprobs: int | None = None


class _Completion(_Common):
    prompt: Any = None
    best_of: int | None = None
    echo: bool | None = None


class _Judging(msgspec.Struct, kw_only=True):
    """What every operation has that generates nothing."""

    model: str
    interlock: Own | None = None


class _Embedding(_Judging, kw_only=True):
    input: Any
    dimensions: Bound | None = None
    encoding_format: str | None = None


# Plain strings: an enum member hashes in Python, and features are cache keys.
_CHAT, _COMPLETIONS = Ability.chat.value, Ability.completions.value
_fields = msgspec.json.Decoder(Fields)
_chat = msgspec.json.Decoder(_Chat)
_completion = msgspec.json.Decoder(_Completion)
_embedding = msgspec.json.Decoder(_Embedding)
_judging = msgspec.json.Decoder(_Judging)

_PROMPT_FIELDS = {
    "chat": ("tools", "functions", "response_format"),
    "completions": ("prompt", "suffix"),
    "embeddings": ("input",),
    "rerank": (),
    "score": (),
}
"""Fields besides the messages whose bytes count as prompt."""


class Native(msgspec.Struct, frozen=True):
    """A request in its caller's own dialect: its checked fields, raw, by name, without ours; and headers with it."""

    dialect: str
    fields: Fields
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Parsed(msgspec.Struct):
    """A request that was read and checked. `fields`: what is sent on, raw, by name, without our own."""

    operation: str
    model: str
    fields: Fields
    stream: bool
    wants_usage: bool
    n: int
    max_tokens: int
    """As the caller bounded one answer; 0 when it did not."""
    needs: tuple[str, ...]
    actions: tuple[str, ...]
    prompt_tokens_max: int
    prompt_bytes: int
    data_class: str
    purpose: str
    mode: str
    parameters: dict[str, Any]
    request_class: str = ""
    generated: int = 0
    """Answers that are made, where that is more than the `n` that come back (`best_of`)."""
    recording: str = ""
    native: Native | None = None
    """For sources that speak the caller's dialect, where that is not OpenAI's of this operation."""
    own: Own = NO_OWN
    """The `interlock` field, or `NO_OWN`."""
    workload: str = ""
    messages: Sequence[Message] = ()
    """Of a chat, until it is known where it goes."""


class Limits(msgspec.Struct, frozen=True):
    """The settings that reading a body needs."""

    messages_max: int
    template_tokens_per_message: int
    depth_max: int = 64
    answers_max: int = 128
    image_tokens_max: int = 4096


def parse(operation: str, body: bytes, limits: Limits) -> Parsed:
    """Read the body of `operation` ("chat", "completions", "embeddings", "rerank", "score").

    Raises BadRequest naming the field at fault.
    """
    try:
        top = _fields.decode(body)
        shape = _shape(operation, top)
        strict.check_depth(body, limits.depth_max)
        if operation == "chat":
            return _parse_chat(top, shape, _chat.decode(body), limits)
        if operation == "completions":
            return _parse_completion(top, shape, _completion.decode(body), limits)
        if operation in rerank.OPERATIONS:
            return _parse_rerank(operation, body, top, shape, limits)
        return _parse_embedding(top, shape, _embedding.decode(body), limits)
    except msgspec.ValidationError as e:
        raise _validation_error(e) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        what = "empty" if not body.strip() else f"not valid JSON: {e}"
        raise BadRequest(f"The request body is {what}.", code="invalid_json") from None
    except RecursionError:
        raise BadRequest("The request body is nested too deeply.", code="invalid_json") from None


class _Shape(NamedTuple):
    """What the names of a request's fields say, whatever their values are: clients send the same few sets of names.

    `prompt`: fields besides the messages whose bytes count as prompt. `watched`: fields that may ask for a policy
    action, or that are not taken. `own`: the `interlock` field is there.
    """

    prompt: tuple[str, ...]
    watched: tuple[str, ...]
    own: bool


SHAPES_MAX = 1024
"""Sets of names that are remembered; when there are more, remembering starts over."""
SHAPE_NAMES_MAX = 64
SHAPE_CHARACTERS_MAX = 1024
"""A request with more names, or longer ones, is looked at each time: what is remembered must stay small."""
_shapes: dict[tuple[str, ...], _Shape] = {}


def _shape(operation: str, top: Fields) -> _Shape:
    """Raises BadRequest when a name is a deciding one in another case."""
    names = (operation, *top)
    shape = _shapes.get(names)
    if shape is None:
        strict.check_names(top)
        watched = _WATCHED[operation]
        shape = _Shape(
            tuple(name for name in _PROMPT_FIELDS[operation] if name in top),
            tuple(name for name in top if name in watched),
            fields.OWN_FIELD in top,
        )
        if len(names) <= SHAPE_NAMES_MAX and sum(map(len, names)) <= SHAPE_CHARACTERS_MAX:
            if len(_shapes) >= SHAPES_MAX:
                _shapes.clear()
            _shapes[names] = shape
    return shape


def _validation_error(e: msgspec.ValidationError) -> BadRequest:
    text, _, path = str(e).partition(" - at `$")
    param = path.rstrip("`").lstrip(".") or None
    if param is None and text.startswith("Object missing required field"):
        param = text.split("`")[1]
    where = f" in field {param!r}" if param else ""
    return BadRequest(f"{text}{where}.", param=param)


def _parse_chat(top: Fields, shape: _Shape, request: _Chat, limits: Limits) -> Parsed:
    messages = request.messages
    count = len(messages)
    if not count:
        raise BadRequest("Field 'messages' must hold at least one message.", param="messages")
    if count > limits.messages_max:
        raise BadRequest(
            f"The request has {count} messages; at most {limits.messages_max} are taken.",
            param="messages",
            code="too_many_messages",
        )
    images, image_bytes, remote, in_parts = 0, 0, False, False
    for message in messages:
        if type(message.content) is list:
            in_parts = True
            n, size, fetches = _images(message.content)
            images, image_bytes, remote = images + n, image_bytes + size, remote or fetches
    raw = bytes(top["messages"])
    strict.check_messages(raw, count, in_parts)
    prompt_bytes = len(raw) + _size(top, shape.prompt)
    bound = request.max_tokens
    field = "max_tokens"
    if request.max_completion_tokens is not None:
        field = "max_completion_tokens"
        if bound is not None and bound != request.max_completion_tokens:
            raise BadRequest("Give max_completion_tokens or max_tokens, not two different bounds.", param="max_tokens")
        bound = request.max_completion_tokens
    tokens = prompt_bytes + limits.template_tokens_per_message * (count + 1)
    needs = _ONLY_CHAT
    actions = _NONE
    if shape.prompt or images or request.logprobs or request.top_logprobs:
        needs = _chat_needs(request, images)
    if shape.watched or images:
        actions = _actions(shape, top, images, remote)
        tokens += images * limits.image_tokens_max - image_bytes
    parsed = _common("chat", top, shape, request, needs, actions, tokens, prompt_bytes, field, bound, request.n, limits)
    parsed.messages = messages
    return parsed


_ONLY_CHAT: tuple[str, ...] = (_CHAT,)
_NO_TOOL = Raw(b'"none"')
_NONE: tuple[str, ...] = ()


def _chat_needs(request: _Chat, images: int) -> tuple[str, ...]:
    needs = [_CHAT]
    if (request.tools or request.functions) and request.tool_choice != _NO_TOOL:
        needs.append(Ability.tools.value)
    if images:
        needs.append(Ability.vision.value)
    if request.logprobs or request.top_logprobs:
        needs.append(Ability.logprobs.value)
    _needs_format(request, needs)
    return tuple(needs)


def _parse_completion(top: Fields, shape: _Shape, request: _Completion, limits: Limits) -> Parsed:
    prompts = _items(request.prompt, "prompt", limits)
    needs = [_COMPLETIONS]
    if request.logprobs:
        needs.append(Ability.logprobs.value)
    _needs_format(request, needs)
    size = _size(top, shape.prompt)
    answers = max(request.n or 1, request.best_of or 1)
    actions = _actions(shape, top)
    bound = request.max_tokens
    parsed = _common(
        "completions", top, shape, request, tuple(needs), actions, size, size, "max_tokens", bound, answers, limits
    )
    parsed.generated = parsed.n * prompts
    parsed.n = (request.n or 1) * prompts
    return parsed


def _parse_embedding(top: Fields, shape: _Shape, request: _Embedding, limits: Limits) -> Parsed:
    _items(request.input, "input", limits)
    size = _size(top, shape.prompt)
    parameters = {"dimensions": request.dimensions} if request.dimensions else {}
    return _answers_whole("embeddings", top, shape, request, size, size, parameters)


def _parse_rerank(operation: str, body: bytes, top: Fields, shape: _Shape, limits: Limits) -> Parsed:
    texts = rerank.read(operation, body, top, limits)
    request = _judging.decode(body)
    tokens, size = texts.prompt_tokens_max, texts.prompt_bytes
    return _answers_whole(operation, top, shape, request, tokens, size, texts.parameters)


def _answers_whole(
    operation: str,
    top: Fields,
    shape: _Shape,
    request: _Judging,
    tokens: int,
    size: int,
    parameters: dict[str, Any],
) -> Parsed:
    """An operation that generates nothing: its answer has no choices and is never streamed."""
    own = request.interlock or NO_OWN
    top.pop(fields.OWN_FIELD, None)
    return Parsed(
        operation=operation,
        model=request.model,
        fields=top,
        stream=False,
        wants_usage=True,
        n=0,
        max_tokens=0,
        needs=(operation,),
        actions=_actions(shape, top),
        prompt_tokens_max=tokens,
        prompt_bytes=size,
        data_class=own.data_class,
        purpose=own.purpose,
        mode=own.mode,
        parameters=parameters,
        request_class=own.request_class,
        recording=own.recording,
        own=own,
        workload=own.workload,
    )


def _items(value: Any, field: str, limits: Limits) -> int:
    """How many texts a prompt or input holds: a text, token ids, or a list of either."""
    if isinstance(value, str) and value:
        return 1
    if isinstance(value, list) and value:
        kinds = {type(item) for item in value}
        if kinds == {int}:
            return 1
        if kinds == {str} or (
            kinds == {list} and all(value) and all(type(token) is int for item in value for token in item)
        ):
            if len(value) > limits.messages_max:
                raise BadRequest(f"At most {limits.messages_max} texts are taken in field '{field}'.", param=field)
            return len(value)
    raise BadRequest(
        f"Field '{field}' must hold a text, a list of texts, or lists of token ids, and not be empty.", param=field
    )


def _common(
    operation: str,
    top: Fields,
    shape: _Shape,
    request: _Common,
    needs: tuple[str, ...],
    actions: tuple[str, ...],
    prompt_tokens: int,
    prompt_bytes: int,
    bound_field: str,
    bound: int | None,
    n: int | None,
    limits: Limits,
) -> Parsed:
    if bound is not None and bound < 1:
        raise BadRequest(f"Field '{bound_field}' must be at least 1.", param=bound_field)
    n = 1 if n is None else n
    if not 1 <= n <= limits.answers_max:
        raise BadRequest(f"Field 'n' must be between 1 and {limits.answers_max}.", param="n")
    own = NO_OWN
    if shape.own:
        own = request.interlock or own
        del top[fields.OWN_FIELD]
    options = request.stream_options
    return Parsed(
        operation,
        request.model,
        top,
        request.stream is True,
        options is not None and options.include_usage is True,
        n,
        bound or 0,
        needs,
        actions,
        prompt_tokens,
        prompt_bytes,
        own.data_class,
        own.purpose,
        own.mode,
        _parameters(request, bound),
        own.request_class,
        recording=own.recording,
        own=own,
        workload=own.workload,
    )


def _parameters(request: _Common, bound: int | None) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if request.temperature is not None:
        parameters["temperature"] = request.temperature
    if request.top_p is not None:
        parameters["top_p"] = request.top_p
    if request.seed is not None:
        parameters["seed"] = request.seed
    if bound is not None:
        parameters["max_tokens"] = bound
    return parameters


def _needs_format(request: _Common, needs: list[str]) -> None:
    if request.response_format is not None:
        kind = request.response_format.get("type")
        if kind in ("json_schema", "json_object"):
            needs.append(Ability.json_schema.value)
        elif kind != "text":
            raise BadRequest(
                "Field 'response_format.type' must be text, json_object or json_schema.", param="response_format"
            )


def _actions(shape: _Shape, top: Fields, images: int = 0, remote: bool = False) -> tuple[str, ...]:
    """The policy actions that the request's fields ask for, sorted, without repeats.

    Raises BadRequest for a field that would put another prompt or another bound beside the ones that were checked.
    """
    actions = set()
    for name in shape.watched:
        value = bytes(top[name]).strip()
        if value == b"null" or value in fields.HARMLESS.get(name, ()):
            continue
        action = fields.FIELD_ACTIONS.get(name)
        if action is None:
            raise BadRequest(f"Field {name!r} is not taken here; {fields.FOREIGN[name]}.", param=name)
        actions.add(action)
    if images:
        actions.add(fields.USE_IMAGES)
    if remote:
        actions.add(fields.FETCH_REMOTE)
    return tuple(sorted(actions))


_WATCHED = {
    operation: (fields.FIELD_ACTIONS.keys() | fields.FOREIGN.keys()) - own
    for operation, own in (
        ("chat", {"messages"}),
        ("completions", {"prompt"}),
        ("embeddings", {"input"}),
        ("rerank", rerank.INPUTS),
        ("score", rerank.INPUTS),
    )
}


def _images(parts: list[dict[str, Any]]) -> tuple[int, int, bool]:
    """(number of images, bytes of inline image data, whether any is fetched from an address).

    A part holds what its type says and nothing else: engines take a part without a type, or with a field of another
    type beside it, for whatever it looks like, and that must not be an image that nobody has seen here.
    """
    count, size, remote = 0, 0, False
    for part in parts:
        kind = part.get("type")
        if kind != "text" and kind != "image_url":
            raise BadRequest(f"Content parts of type {kind!r} are not taken; use text or image_url.", param="messages")
        for name in part:
            if name not in _PART_FIELDS[kind]:
                raise BadRequest(f"A content part of type {kind!r} does not take {name!r}.", param="messages")
        if kind == "text":
            if type(part.get("text")) is not str:
                raise BadRequest("A content part of type 'text' needs a text.", param="messages")
            continue
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if not isinstance(url, str) or not url:
            raise BadRequest("A content part of type 'image_url' needs image_url.url.", param="messages")
        count += 1
        if url[:5].lower() == "data:":
            size += len(url)
        else:
            remote = True
    return count, size, remote


_PART_FIELDS = {
    "text": frozenset(("type", "text", "cache_control")),
    "image_url": frozenset(("type", "image_url", "cache_control")),
}


def _size(top: Fields, names: tuple[str, ...]) -> int:
    return sum([len(memoryview(top[name])) for name in names]) if names else 0


def features(
    parsed: Parsed, data_class: DataClass, completion_tokens_max: int, workload: Workload = Workload.interactive
) -> Features:
    """What decisions may look at, from a checked request and its resolved classes and bound."""
    return Features(
        parsed.operation,
        parsed.model,
        data_class,
        parsed.needs,
        parsed.actions,
        parsed.stream,
        parsed.prompt_bytes,
        parsed.prompt_tokens_max,
        completion_tokens_max,
        parsed.purpose,
        workload,
    )


_encode = msgspec.json.Encoder().encode


def build_body(
    sent: Fields,
    *,
    model: str,
    drop: frozenset[str] | tuple[str, ...] = (),
    add: dict[str, Any] | None = None,
) -> bytes:
    """The body for a source: the checked fields with the model's served name, without `drop`, with `add`."""
    out: dict[str, Any] = dict(sent)
    out["model"] = model
    for name in drop:
        out.pop(name, None)
    if add:
        out.update(add)
    return _encode(out)
