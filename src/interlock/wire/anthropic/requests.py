"""Requests of the Messages API: read and checked once, then said in the pivot, and kept for sources of the dialect.

Everything that leaves was decoded into the types below, which take no field that they do not name, and encoded anew:
two spellings of a field, or a field given twice, cannot mean one thing here and another at the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from interlock.errors import BadRequest
from interlock.wire import openai, strict
from interlock.wire.openai import Limits, Native, Parsed

DIALECT = "anthropic"
COUNTING = "anthropic/count_tokens"
"""What the dialect is called of a call that asks how many tokens a request has."""
TOOLS_TOKENS = 800
"""Allowance for what the provider itself tells a model about the use of tools (at most some 700 tokens)."""


class _Cache(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None

    def __post_init__(self) -> None:
        """An hour costs more than prices know of: what is written to a cache is written for the usual time."""
        self.ttl = None


class _Block(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"):
    cache_control: _Cache | None = None


class _Text(_Block, tag="text", kw_only=True):
    text: str
    citations: None = None


class _Base64(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="base64"):
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class _Url(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="url"):
    url: str


class _Image(_Block, tag="image", kw_only=True):
    source: _Base64 | _Url


class _Caller(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["direct"]


class _ToolUse(_Block, tag="tool_use", kw_only=True):
    id: str
    name: str
    input: Raw
    caller: _Caller | None = None


class _ToolResult(_Block, tag="tool_result", kw_only=True):
    tool_use_id: str
    content: str | list[_Text | _Image] | None = None
    is_error: bool | None = None


class _Thinking(_Block, tag="thinking", kw_only=True):
    thinking: str
    signature: str = ""


class _Redacted(_Block, tag="redacted_thinking", kw_only=True):
    data: str


_Any = _Text | _Image | _ToolUse | _ToolResult | _Thinking | _Redacted
_OF_ROLE: dict[str, tuple[type[_Block], ...]] = {
    "user": (_Text, _Image, _ToolResult),
    "assistant": (_Text, _ToolUse, _Thinking, _Redacted),
    "system": (_Text,),
}


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Any]


class _ToolHead(msgspec.Struct):
    type: str | None = None


class _Tool(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    input_schema: Raw
    description: str | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: _Cache | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[Raw] | None = None


class _ToolChoice(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _ThinkingConfig(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class _Metadata(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    user_id: str | None = None


class _Format(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    schema: Raw


class _OutputConfig(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _ContextManagement(msgspec.Struct, forbid_unknown_fields=True):
    edits: list[dict[str, Any]] = []


class _Request(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    model: str
    messages: list[_Message]
    max_tokens: openai.Bound | None = None
    system: str | list[_Text] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    tools: list[Raw] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _ThinkingConfig | None = None
    metadata: _Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None
    cache_control: _Cache | None = None
    context_management: _ContextManagement | None = None
    interlock: Raw | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode
_tool_head = msgspec.json.Decoder(_ToolHead).decode
_tool = msgspec.json.Decoder(_Tool).decode
_COUNTED = frozenset(
    ("model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control")
)
"""Fields that the counting of tokens takes."""
_BETAS = (
    "interleaved-thinking-",
    "fine-grained-tool-streaming-",
    "token-efficient-tools-",
    "prompt-caching-",
    "context-management-",
    "effort-",
    "structured-outputs-",
)
"""Beginnings of the beta features that are passed on to sources of the dialect: they change how what was checked is
said, not what is done or paid."""


def parse(body: bytes, limits: Limits, *, beta: bytes = b"", counting: bool = False) -> Parsed:
    """Read the body of a Messages request, or of one that asks how many tokens it has (`counting`).

    `beta`: the caller's `anthropic-beta` header. Raises BadRequest naming the field at fault.
    """
    try:
        request = _decode(body)
    except msgspec.ValidationError as e:
        raise _fault(str(e)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        what = "empty" if not body.strip() else f"not valid JSON: {e}"
        raise BadRequest(f"The request body is {what}.", code="invalid_json") from None
    except RecursionError:
        raise BadRequest("The request body is nested too deeply.", code="invalid_json") from None
    strict.check_depth(body, limits.depth_max)
    if not counting and (request.max_tokens is None or request.max_tokens < 1):
        raise BadRequest("Field 'max_tokens' is required, and must be at least 1.", param="max_tokens")
    tools = [_checked_tool(raw, i) for i, raw in enumerate(request.tools or ())]
    _check_edits(request)
    for i, message in enumerate(request.messages):
        _check_roles(message, i)
    parsed = openai.parse("chat", _encode(_pivot(request, tools)), limits)
    fields = {name: Raw(_encode(value)) for name, value in _native(request, tools) if not counting or name in _COUNTED}
    size = sum(len(memoryview(fields[name])) for name in ("messages", "system", "tools") if name in fields)
    more = max(size - parsed.prompt_bytes, 0)
    parsed.prompt_bytes += more
    parsed.prompt_tokens_max += more + (TOOLS_TOKENS if tools else 0)
    parsed.native = Native(COUNTING if counting else DIALECT, fields, _headers(beta))
    if counting:
        parsed.n, parsed.stream = 0, False
    return parsed


def shows_thinking(parsed: Parsed) -> bool:
    """Whether the caller asked to see how the model comes to its answer."""
    raw = parsed.native.fields.get("thinking") if parsed.native is not None else None
    if raw is None:
        return False
    thinking = msgspec.json.decode(raw, type=_ThinkingConfig)
    return thinking.type != "disabled" and thinking.display != "omitted"


# -- what is wrong with a body


def _fault(words: str) -> BadRequest:
    text, _, path = words.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if text.startswith("Invalid value") and path.endswith("type") and ("content" in path or "source" in path):
        kind = text.removeprefix("Invalid value ")
        what = "Image sources" if "source" in path.rpartition("content")[2] else "Content blocks"
        return BadRequest(f"{what} of type {kind} are not taken here (in {path!r}).", param="messages")
    if text.startswith(("Object contains unknown field", "Object missing required field")) and not path:
        name = text.split("`")[1]
        told = f"Field {name!r} is not taken here." if "unknown" in text else f"Field {name!r} is required."
        return BadRequest(told, param=name)
    return BadRequest(f"{text}{f' in field {path!r}' if path else ''}.", param=path.split("[")[0].split(".")[0] or None)


def _checked_tool(raw: Raw, i: int) -> _Tool:
    try:
        kind = _tool_head(raw).type
        if kind is not None and kind != "custom":
            raise BadRequest(
                f"Tools of type {kind[:60]!r} are not taken here: only those that the caller runs, by name and "
                "input_schema.",
                param="tools",
            )
        tool = _tool(raw)
    except msgspec.ValidationError as e:
        words = str(e).replace("$", f"tools[{i}]")
        raise BadRequest(f"{words}{'' if '$' in str(e) else f' in tools[{i}]'}.", param="tools") from None
    if bytes(tool.input_schema)[:1] != b"{":
        raise BadRequest(f"Field 'tools[{i}].input_schema' must be an object.", param="tools")
    return tool


def _check_edits(request: _Request) -> None:
    for edit in request.context_management.edits if request.context_management is not None else ():
        kind = str(edit.get("type"))
        if not kind.startswith("clear_"):
            raise BadRequest(
                f"Edits of type {kind[:60]!r} are not taken in field 'context_management'.", param="context_management"
            )


def _check_roles(message: _Message, i: int) -> None:
    if isinstance(message.content, str):
        return
    taken = _OF_ROLE[message.role]
    for block in message.content:
        if not isinstance(block, taken):
            kind = block.__struct_config__.tag
            raise BadRequest(f"A message of role {message.role!r} has no block of type {kind!r} (messages[{i}]).",
                             param="messages")  # fmt: skip
        if isinstance(block, _ToolUse) and bytes(block.input)[:1] != b"{":
            raise BadRequest(f"The input of a tool_use block must be an object (messages[{i}]).", param="messages")


# -- the pivot


def _pivot(request: _Request, tools: list[_Tool]) -> dict[str, Any]:
    """The request as OpenAI's chat completions have it."""
    messages: list[dict[str, Any]] = []
    if request.system:
        text = request.system if isinstance(request.system, str) else _joined(request.system)
        messages.append({"role": "system", "content": text})
    for message in request.messages:
        messages.extend(_said(message))
    out: dict[str, Any] = {"model": request.model, "messages": messages}
    if request.max_tokens is not None:
        out["max_completion_tokens"] = request.max_tokens
    if request.stream:
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    for name in ("temperature", "top_k", "top_p"):
        value = getattr(request, name)
        if value is not None:
            out[name] = value
    if request.stop_sequences:
        out["stop"] = request.stop_sequences
    if tools:
        out["tools"] = [_function(tool) for tool in tools]
        out |= _choice(request.tool_choice)
    if request.metadata is not None and request.metadata.user_id:
        out["user"] = request.metadata.user_id
    if request.service_tier == "standard_only":
        out["service_tier"] = "default"
    output = request.output_config or _OutputConfig()
    if output.effort is not None:
        out["reasoning_effort"] = "high" if output.effort in ("xhigh", "max") else output.effort
    form = output.format or request.output_format
    if form is not None:
        shape = {"name": "answer", "schema": form.schema, "strict": True}
        out["response_format"] = {"type": "json_schema", "json_schema": shape}
    if request.interlock is not UNSET:
        out["interlock"] = request.interlock
    return out


def _said(message: _Message) -> Iterator[dict[str, Any]]:
    """One message in the pivot: results of tools are messages of their own there, before what else was said."""
    content = message.content
    if isinstance(content, str):
        yield {"role": message.role, "content": content}
    elif message.role == "assistant":
        yield _assistant(content)
    elif message.role == "system":
        yield {"role": "system", "content": _joined(b for b in content if isinstance(b, _Text))}
    else:
        rest: list[_Text | _Image] = []
        for block in content:
            if isinstance(block, _ToolResult):
                text, images = _result(block)
                yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}
                rest.extend(images)
            elif isinstance(block, (_Text, _Image)):
                rest.append(block)
        if rest or not content:
            yield {"role": "user", "content": _parts(rest)}


def _assistant(blocks: list[_Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"role": "assistant", "content": _joined((b for b in blocks if isinstance(b, _Text)), "")}
    # What has no signature came from a source of another dialect, by way of `answers`: it gets its own words back.
    thoughts = [b.thinking for b in blocks if isinstance(b, _Thinking) and not b.signature]
    if thoughts:
        out["reasoning_content"] = "".join(thoughts)
    calls = [
        {"id": b.id, "type": "function", "function": {"name": b.name, "arguments": bytes(b.input).decode()}}
        for b in blocks
        if isinstance(b, _ToolUse)
    ]
    if calls:
        out["tool_calls"] = calls
    return out


def _result(block: _ToolResult) -> tuple[str, list[_Image]]:
    """(text, images) of a tool's result; the pivot has no place for images in it, nor for a mark of failure."""
    content = block.content or ""
    if isinstance(content, str):
        text, images = content, []
    else:
        text = _joined(b for b in content if isinstance(b, _Text))
        images = [b for b in content if isinstance(b, _Image)]
    return (f"Error: {text}" if block.is_error else text), images


def _parts(blocks: list[_Text | _Image]) -> str | list[dict[str, Any]]:
    if len(blocks) == 1 and isinstance(blocks[0], _Text):
        return blocks[0].text
    return [
        {"type": "text", "text": block.text}
        if isinstance(block, _Text)
        else {"type": "image_url", "image_url": {"url": _address(block.source)}}
        for block in blocks
    ]


def _address(source: _Base64 | _Url) -> str:
    if isinstance(source, _Base64):
        return f"data:{source.media_type};base64,{source.data}"
    if not source.url.lower().startswith(("https://", "http://")):
        raise BadRequest("An image source of type 'url' needs an http or https address.", param="messages")
    return source.url


def _joined(blocks: Iterable[_Text], between: str = "\n") -> str:
    return between.join(block.text for block in blocks)


def _function(tool: _Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def _choice(choice: _ToolChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    out: dict[str, Any] = {}
    if choice.type != "tool":
        out["tool_choice"] = _CHOICES[choice.type]
    elif choice.name:
        out["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        raise BadRequest("Field 'tool_choice' of type 'tool' needs a name.", param="tool_choice")
    if choice.disable_parallel_tool_use is not None:
        out["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return out


# -- the dialect itself


def _native(request: _Request, tools: list[_Tool]) -> Iterator[tuple[str, Any]]:
    """The fields for a source of the dialect: those that were given, without ours."""
    for name in request.__struct_fields__:
        value = getattr(request, name)
        if value is None or value is UNSET or name == "interlock":
            continue
        if name == "tools":
            value = tools
        elif name == "messages":
            value = [signed for message in value if (signed := _signed(message)) is not None]
        yield name, value


def _signed(message: _Message) -> _Message | None:
    """The message without thoughts that no provider has signed: it would refuse them. None when nothing is left."""
    if isinstance(message.content, str):
        return message
    kept = [block for block in message.content if not isinstance(block, _Thinking) or block.signature]
    if len(kept) == len(message.content):
        return message
    return _Message(message.role, kept) if kept else None


def _headers(beta: bytes) -> tuple[tuple[bytes, bytes], ...]:
    asked = [name.strip() for name in beta.decode("latin-1").split(",")]
    passed = [name for name in asked if name.startswith(_BETAS) and name.isascii() and name.isprintable()]
    return ((b"anthropic-beta", ",".join(passed[:16]).encode()),) if passed else ()
