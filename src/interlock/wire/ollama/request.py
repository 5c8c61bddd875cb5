"""What an Ollama client asks, in the pivot. The result is checked as every request is (`interlock.wire.openai.parse`).

| Ollama | pivot |
|---|---|
| `/api/chat` | chat |
| `/api/generate` | chat of one message, as it goes through the model's template; raw or with a suffix: completions |
| `/api/embed`, `/api/embeddings` | embeddings |

Ignored, for it is the operator's to say: how long a model stays loaded (`keep_alive`), on what it runs (`num_gpu` and
the like). Refused: a template of the caller's own, the token memory of old versions (`context`), and calls that do
nothing but load a model, or put it out of memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from interlock.errors import BadRequest

Fields = dict[str, msgspec.Raw]
MIRRORED = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
"""Option -> field of OpenAI's API."""
OWN_OPTIONS = ("top_k", "min_p", "typical_p", "repeat_last_n", "repeat_penalty", "mirostat", "mirostat_tau",
               "mirostat_eta", "num_keep", "tfs_z", "penalize_newline")  # fmt: skip
"""Options that go on under their own names, to sources that know them."""
_CARRIED = ("interlock",)
"""Fields of ours, which mean the same in every dialect."""
NATIVE = ("options", "think")
"""Fields that an Ollama source is told as they are, as far as the pivot has no word for what they say."""
_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode


class Options(msgspec.Struct):
    """What is read of `options`; the rest is taken as it is, or left to the operator."""

    num_predict: int | None = None
    num_ctx: int | None = None
    stop: str | list[str] | None = None


class _Common(msgspec.Struct):
    model: str = ""
    name: str = ""
    """As old clients name the model."""
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class _Function(msgspec.Struct):
    name: str
    arguments: dict[str, Any] | str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | None = ""
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_name: str | None = None
    name: str | None = None
    tool_call_id: str | None = None


class _Chat(_Common):
    messages: list[_Message] = []
    tools: list[dict[str, Any]] | None = None


class _Generate(_Common):
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    raw: bool | None = None
    images: list[str] | None = None
    context: list[int] | None = None


class _Embed(msgspec.Struct):
    input: str | list[str]
    model: str = ""
    name: str = ""
    truncate: bool | None = None
    dimensions: int | None = None
    options: dict[str, Any] | None = None


class _Embeddings(msgspec.Struct):
    prompt: str
    model: str = ""
    name: str = ""
    options: dict[str, Any] | None = None


class Translated(NamedTuple):
    """A request in the pivot: operation and body; `native`: the fields of the caller's that Ollama sources are told."""

    operation: str
    body: bytes
    native: Fields


_fields = msgspec.json.Decoder(Fields)
_chat = msgspec.json.Decoder(_Chat)
_generate = msgspec.json.Decoder(_Generate)
_embed = msgspec.json.Decoder(_Embed)
_embeddings = msgspec.json.Decoder(_Embeddings)
_options = msgspec.json.Decoder(Options)


def translated(form: str, body: bytes) -> Translated:
    """The request of `/api/<form>`: "chat", "generate", "embed" or "embeddings".

    Raises BadRequest; msgspec's errors and UnicodeDecodeError for what is no such request.
    """
    top = _fields.decode(body)
    if form == "chat":
        operation, out = "chat", _chat_of(_chat.decode(body))
    elif form == "generate":
        operation, out = _generate_of(_generate.decode(body))
    else:
        operation, out = "embeddings", _embeddings_of(_embed.decode(body) if form == "embed" else None, body)
    for name in _CARRIED:
        if name in top:
            out[name] = top[name]
    return Translated(operation, _encode(out), {name: top[name] for name in NATIVE if name in top})


def _chat_of(asked: _Chat) -> dict[str, Any]:
    if not asked.messages:
        raise _only_loads("messages")
    out = _common(asked)
    out["messages"] = messages_of(asked.messages)
    if asked.tools:
        out["tools"] = asked.tools
    return out


def _generate_of(asked: _Generate) -> tuple[str, dict[str, Any]]:
    if not asked.prompt and not asked.images:
        raise _only_loads("prompt")
    if asked.template:
        raise BadRequest("Field 'template' is not taken: the model's own template holds.", param="template")
    if asked.context:
        raise BadRequest("Field 'context' is not taken: send the conversation to /api/chat.", param="context")
    out = _common(asked)
    if asked.raw or asked.suffix:
        if asked.system or asked.images:
            raise BadRequest("A raw prompt, or one with a suffix, has no system message and no images.", param="raw")
        out["prompt"] = asked.prompt
        if asked.suffix:
            out["suffix"] = asked.suffix
        return "completions", out
    messages = [_Message("system", asked.system)] if asked.system else []
    messages.append(_Message("user", asked.prompt, images=asked.images))
    out["messages"] = messages_of(messages)
    return "chat", out


def _embeddings_of(asked: _Embed | None, body: bytes) -> dict[str, Any]:
    if asked is None:
        old = _embeddings.decode(body)
        asked = _Embed(old.prompt, old.model, old.name)
    out: dict[str, Any] = {"model": asked.model or asked.name, "input": asked.input, "encoding_format": "float"}
    if asked.dimensions:
        out["dimensions"] = asked.dimensions
    return out


def _only_loads(field: str) -> BadRequest:
    return BadRequest(
        f"Field '{field}' is empty: models are loaded and put out of memory where they are governed, not by a call.",
        param=field,
    )


def _common(asked: _Common) -> dict[str, Any]:
    stream = asked.stream is not False
    out: dict[str, Any] = {"model": asked.model or asked.name, "stream": stream}
    if stream:
        out["stream_options"] = {"include_usage": True}
    given = asked.options or {}
    try:
        known = msgspec.convert(given, Options)
    except msgspec.ValidationError as e:
        raise BadRequest(f"{e} (in field 'options').", param="options") from None
    for option, field in MIRRORED.items():
        if given.get(option) is not None:
            out[field] = given[option]
    for option in OWN_OPTIONS:
        if given.get(option) is not None:
            out[option] = given[option]
    if known.num_predict is not None and known.num_predict >= 0:  # below 0: no bound of the caller's
        out["max_tokens"] = known.num_predict
    form = _format(asked.format)
    if form is not None:
        out["response_format"] = form
    if isinstance(asked.think, str):  # whether to think at all is no word of the pivot's: see NATIVE
        out["reasoning_effort"] = asked.think
    if asked.logprobs:
        out["logprobs"] = True
        if asked.top_logprobs:
            out["top_logprobs"] = asked.top_logprobs
    return out


def _format(form: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if form is None or form == "":
        return None
    if form == "json":
        return {"type": "json_object"}
    if isinstance(form, dict):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form, "strict": True}}
    raise BadRequest("Field 'format' is \"json\" or a JSON schema.", param="format")


# -- messages


def messages_of(given: list[_Message]) -> list[dict[str, Any]]:
    """Messages of the pivot. Ollama's tool calls often have no ids: they get one each by their place, and results take
    those of the calls before them, by name where they tell it, in order."""
    out: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []
    made = 0
    for message in given:
        said: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.images:
            said["content"] = _parts(message.content or "", message.images)
        if message.thinking:
            said["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = []
            waiting = []
            for call in message.tool_calls:
                call_id = call.id or f"call_{made}"
                made += 1
                calls.append(_call(call, call_id))
                waiting.append((call_id, call.function.name))
            said["tool_calls"] = calls
        if message.role == "tool":
            said["tool_call_id"] = message.tool_call_id or _answered(waiting, message.tool_name or message.name)
        out.append(said)
    return out


def _call(call: _ToolCall, call_id: str) -> dict[str, Any]:
    arguments = call.function.arguments
    text = arguments if isinstance(arguments, str) else _encode(arguments or {}).decode()
    return {"id": call_id, "type": "function", "function": {"name": call.function.name, "arguments": text}}


def _answered(waiting: list[tuple[str, str]], name: str | None) -> str:
    for place, (call_id, called) in enumerate(waiting):
        if name is None or called == name:
            del waiting[place]
            return call_id
    return "call_unknown"


_KINDS = (("iVBOR", "png"), ("/9j/", "jpeg"), ("R0lGOD", "gif"), ("UklGR", "webp"))
"""How the base64 of each kind of image begins."""


def _parts(text: str, images: list[str]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for image in images:
        kind = next((name for start, name in _KINDS if image.startswith(start)), "png")
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{image}"}})
    return parts
