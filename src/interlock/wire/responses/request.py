"""Requests of the Responses API: read, checked, and made into requests of the pivot.

What cannot be served is refused by name, never left out: tools that a provider runs, files, conversations and prompts
that are kept elsewhere, answers in the background.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from interlock.errors import BadRequest
from interlock.wire import fields, strict
from interlock.wire.responses import items

Raw = msgspec.Raw
METADATA_MAX = 16
"""Pairs of `metadata`, with keys of at most 64 and values of at most 512 characters (OpenAI API reference)."""
_KEY_MAX, _VALUE_MAX = 64, 512
ENCRYPTED = "reasoning.encrypted_content"
_INCLUDE = frozenset((ENCRYPTED, "message.input_image.image_url"))
"""What may be asked to be included: the first is there where a source with this dialect gives it, the second always."""


class _Function(msgspec.Struct):
    type: str
    name: str = ""
    description: str | None = None
    parameters: Raw = Raw(b"null")
    strict: bool | None = None


class _Choice(msgspec.Struct, omit_defaults=True):
    type: str
    name: str = ""
    mode: str = ""
    tools: list[_Function] = []


class _Format(msgspec.Struct, omit_defaults=True):
    type: str
    name: str | None = None
    description: str | None = None
    schema: Raw = Raw(b"null")
    strict: bool | None = None


class _Text(msgspec.Struct, omit_defaults=True):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_obfuscation: bool | None = None


class _Request(msgspec.Struct):
    model: str
    input: Raw = Raw()
    instructions: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    tools: list[_Function] | None = None
    tool_choice: str | _Choice | None = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    truncation: str | None = None
    background: bool | None = None
    conversation: Raw = Raw(b"null")
    prompt: Raw = Raw(b"null")
    context_management: Raw = Raw(b"null")


_PASSED = frozenset(
    [
        "temperature",
        "top_p",
        "parallel_tool_calls",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
    ]
)
"""Fields that mean the same in the pivot."""
_OWN = frozenset(_Request.__struct_fields__)
_CHATS = frozenset(
    [
        "messages",
        "prompt",
        "max_tokens",
        "max_completion_tokens",
        "response_format",
        "functions",
        "function_call",
        "n",
        "best_of",
        "logprobs",
        "reasoning_effort",
        "verbosity",
        "modalities",
        "audio",
        "prediction",
    ]
)
"""Fields of the pivot that this dialect says otherwise, or not at all."""
_fields = msgspec.json.Decoder(dict[str, Raw])
_request = msgspec.json.Decoder(_Request)
_NULL = Raw(b"null")


class Head(NamedTuple):
    """What is needed before a request can be whole. `items`: the input as items; `fields`: all of the request."""

    fields: dict[str, Raw]
    previous: str
    store: bool | None
    items: list[Raw]


class Translated(NamedTuple):
    """`pivot`: the body of a chat completion. `echo`: what a response says of its request. `native`: what a source with
    this dialect is told, made of what was read."""

    pivot: bytes
    echo: dict[str, Any]
    native: dict[str, Raw]


class _Head(msgspec.Struct):
    input: Raw = Raw()
    previous_response_id: str | None = None
    store: bool | None = None


_head = msgspec.json.Decoder(_Head)
_list = msgspec.json.Decoder(list[Raw])


def head(body: bytes) -> Head:
    """Read as much of a request as tells which conversation it goes on with. Raises BadRequest."""
    try:
        top = _fields.decode(body)
        known = _head.decode(body)
        return Head(top, known.previous_response_id or "", known.store, _input(bytes(known.input)))
    except msgspec.ValidationError as e:
        raise _invalid(e) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        what = "empty" if not body.strip() else f"not valid JSON: {e}"
        raise BadRequest(f"The request body is {what}.", code="invalid_json") from None
    except RecursionError:
        raise BadRequest("The request body is nested too deeply.", code="invalid_json") from None


def with_items(top: dict[str, Raw], items: list[Raw]) -> bytes:
    """The request with these items as its input."""
    return msgspec.json.encode({**top, "input": items})


def _input(raw: bytes) -> list[Raw]:
    """The input as items: a text is what the user says."""
    if raw[:1] == b'"':
        text = msgspec.json.decode(raw)
        if not text:
            raise BadRequest("Field 'input' must not be empty.", param="input")
        said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        return [Raw(msgspec.json.encode(said))]
    if raw[:1] != b"[":
        raise BadRequest("Field 'input' must hold a text or a list of items.", param="input")
    found = _list.decode(raw)
    if not found:
        raise BadRequest("Field 'input' must not be empty.", param="input")
    return [Raw(bytes(item)) for item in found]


def translate(body: bytes, depth_max: int) -> Translated:
    """The request of the pivot that a whole request stands for. Raises BadRequest naming the field at fault."""
    known = head(body)
    strict.check_depth(body, depth_max)
    strict.check_names(known.fields)
    try:
        return _translate(known, _request.decode(body))
    except msgspec.ValidationError as e:
        raise _invalid(e) from None
    except RecursionError:
        raise BadRequest("The request body is nested too deeply.", code="invalid_json") from None


def _translate(known: Head, request: _Request) -> Translated:
    _refuse_unserved(request)
    top = known.fields
    pivot: dict[str, Any] = {"model": request.model}
    raw = msgspec.json.encode(known.items)
    pivot["messages"] = items.messages(raw, request.instructions or "")
    for name, value in top.items():
        if name in _CHATS:
            raise BadRequest(f"Field {name!r} is not taken here; it belongs to chat completions.", param=name)
        if value != _NULL and (name in _PASSED or name not in _OWN):
            pivot[name] = value
    if request.stream:
        pivot["stream"] = True
        pivot["stream_options"] = {"include_usage": True}
    if request.max_output_tokens is not None:
        if request.max_output_tokens < 1:
            raise BadRequest("Field 'max_output_tokens' must be at least 1.", param="max_output_tokens")
        pivot["max_completion_tokens"] = request.max_output_tokens
    tools, choice = _tools(request)
    if tools:
        pivot["tools"] = tools
        if choice is not None:
            pivot["tool_choice"] = choice
    form = request.text.format if request.text is not None else None
    if form is not None and form.type != "text":
        pivot["response_format"] = _format(form)
    if request.text is not None and request.text.verbosity not in (None, "medium"):
        pivot["verbosity"] = request.text.verbosity
    if request.reasoning is not None and request.reasoning.effort is not None:
        pivot["reasoning_effort"] = request.reasoning.effort
    native = _native(request, known.items, {n: v for n, v in pivot.items() if n in top and n not in _OWN}, tools)
    return Translated(msgspec.json.encode(pivot), _echo(top, request), native)


def _native(request: _Request, given: list[Raw], passed: dict[str, Any], tools: list[dict[str, Any]]) -> dict[str, Raw]:
    """The request for a source that has this dialect."""
    passed.pop(fields.OWN_FIELD, None)
    choice = request.tool_choice
    if isinstance(choice, _Choice):
        choice = choice.mode if choice.type == "allowed_tools" else _Choice("function", choice.name)
    said: dict[str, Any] = {
        "input": given,
        "instructions": request.instructions,
        "tools": [{"type": "function", "strict": None, **tool["function"]} for tool in tools] or None,
        "tool_choice": choice if tools else None,
        "parallel_tool_calls": request.parallel_tool_calls,
        "text": request.text,
        "reasoning": request.reasoning,
        "include": [ENCRYPTED] if ENCRYPTED in (request.include or ()) else None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        **passed,
    }
    return {name: Raw(msgspec.json.encode(value)) for name, value in said.items() if value is not None}


def _refuse_unserved(request: _Request) -> None:
    """Raise BadRequest for what is not served."""
    if request.background:
        raise _unserved("background", "answers in the background are not served; stream, or wait for the answer")
    if request.conversation != _NULL:
        raise _unserved("conversation", "conversations are not served; use previous_response_id, or send the items")
    if request.prompt != _NULL:
        raise _unserved("prompt", "prompt templates are not kept here; send instructions and input")
    if request.context_management != _NULL:
        raise _unserved("context_management", "contexts are not compacted here")
    if request.truncation not in (None, "disabled"):
        raise _unserved("truncation", "nothing is left out of a conversation; send fewer items")
    if request.top_logprobs:
        raise _unserved("top_logprobs", "log probabilities are served by chat completions")
    if request.max_tool_calls is not None and request.max_tool_calls < 1:
        raise BadRequest("Field 'max_tool_calls' must be at least 1.", param="max_tool_calls")
    for name in request.include or ():
        if name not in _INCLUDE:
            raise _unserved("include", f"there is no {name[:60]!r} to include")
    pairs = request.metadata or {}
    if len(pairs) > METADATA_MAX or any(len(k) > _KEY_MAX or len(v) > _VALUE_MAX for k, v in pairs.items()):
        raise BadRequest(
            f"Field 'metadata' takes {METADATA_MAX} pairs, keys of {_KEY_MAX} and values of {_VALUE_MAX} characters.",
            param="metadata",
        )


def _unserved(field: str, why: str) -> BadRequest:
    return BadRequest(f"Field {field!r} is not taken as it is: {why}.", code="unsupported_field", param=field)


def _tools(request: _Request) -> tuple[list[dict[str, Any]], Any]:
    """(tools, choice) of the pivot. A choice among some of the tools leaves the others out."""
    functions = request.tools or []
    choice = request.tool_choice
    for n, tool in enumerate(functions):
        if tool.type != "function":
            raise BadRequest(
                f"Tools of type {tool.type[:40]!r} are not served here; define a function that your program runs.",
                code="unsupported_tool",
                param=f"tools[{n}]",
            )
        if not tool.name:
            raise BadRequest("A tool needs a name.", param=f"tools[{n}].name")
    wanted: Any = choice
    if isinstance(choice, _Choice):
        known = {tool.name for tool in functions}
        named = [choice.name] if choice.type == "function" else [tool.name for tool in choice.tools]
        if choice.type not in ("function", "allowed_tools") or not named or not known.issuperset(named):
            raise BadRequest("Field 'tool_choice' must choose among the functions in 'tools'.", param="tool_choice")
        if choice.type == "function":
            wanted = {"type": "function", "function": {"name": choice.name}}
        else:
            wanted = choice.mode
            functions = [tool for tool in functions if tool.name in named]
    if isinstance(wanted, str) and wanted not in ("none", "auto", "required"):
        raise BadRequest("Field 'tool_choice' must be none, auto, required or name a function.", param="tool_choice")
    if choice is not None and not functions and wanted not in ("none", "auto"):
        raise BadRequest("Field 'tool_choice' asks for a tool, and there is none.", param="tool_choice")
    return [_tool(tool) for tool in functions], wanted


def _tool(tool: _Function) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.parameters if tool.parameters != _NULL else {"type": "object", "properties": {}}
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _format(form: _Format) -> dict[str, Any]:
    if form.type == "json_object":
        return {"type": "json_object"}
    if form.type != "json_schema":
        raise BadRequest("Field 'text.format.type' must be text, json_object or json_schema.", param="text.format.type")
    if not form.name or form.schema == _NULL:
        raise BadRequest("A format of type 'json_schema' needs a name and a schema.", param="text.format")
    schema: dict[str, Any] = {"name": form.name, "schema": form.schema}
    if form.description is not None:
        schema["description"] = form.description
    if form.strict is not None:
        schema["strict"] = form.strict
    return {"type": "json_schema", "json_schema": schema}


def _echo(top: dict[str, Raw], request: _Request) -> dict[str, Any]:
    """What a response says of its request, with the defaults of what was not said."""
    reasoning = request.reasoning or _Reasoning()
    text: dict[str, Any] = {"format": {"type": "text"}}
    if "text" in top and top["text"] != _NULL:
        text.update({name: value for name, value in _fields.decode(bytes(top["text"])).items() if value != _NULL})
    given = {name: value for name, value in top.items() if value != _NULL}
    return {
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "model": request.model,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": given.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "safety_identifier": given.get("safety_identifier"),
        "service_tier": given.get("service_tier"),
        "temperature": request.temperature,
        "text": text,
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": given.get("tools", []),
        "top_logprobs": 0,
        "top_p": request.top_p,
        "truncation": "disabled",
        "user": given.get("user"),
    }


def _invalid(e: msgspec.ValidationError) -> BadRequest:
    text, _, path = str(e).partition(" - at `$")
    param = path.rstrip("`").lstrip(".") or None
    if param is None and text.startswith("Object missing required field"):
        param = text.split("`")[1]
    return BadRequest(f"{text} in field {param!r}." if param else f"{text}.", param=param)
