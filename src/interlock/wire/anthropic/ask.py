"""A checked request of the pivot, said in the Messages API: what has no counterpart there is left out, or refused where
it would change what is asked for."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from interlock.errors import BadRequest
from interlock.wire.anthropic.answers import tool_input
from interlock.wire.openai import Parsed

CODE = "untranslatable"
"""Of a request that a source's dialect has no words for: another source may have them."""
_DATA = re.compile(r"data:(image/(?:jpeg|png|gif|webp));base64,", re.IGNORECASE)
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_TIERS = {"auto": "auto", "priority": "auto", "default": "standard_only"}


def messages_request(parsed: Parsed, model: str, max_tokens: int) -> dict[str, Any]:
    """The body's fields. `max_tokens`: the bound, which the dialect insists on. Raises BadRequest `untranslatable`."""
    if parsed.operation != "chat":
        raise _untranslatable(f"there are no {parsed.operation}", "model")
    given = {name: msgspec.json.decode(raw) for name, raw in parsed.fields.items() if name in READ}
    given = {name: value for name, value in given.items() if value is not None}
    if parsed.n > 1:
        raise _untranslatable("one answer at a time is given", "n")
    if given.get("functions"):
        raise _untranslatable("use tools in the place of functions", "functions")
    system, messages = _messages(given["messages"])
    out: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "messages": messages}
    if system:
        out["system"] = system
    if parsed.stream:
        out["stream"] = True
    if "temperature" in given:
        out["temperature"] = min(given["temperature"], 1)  # the scale ends there
    for name in ("top_p", "top_k", "thinking"):
        if name in given:
            out[name] = given[name]
    if given.get("stop"):
        out["stop_sequences"] = [given["stop"]] if isinstance(given["stop"], str) else given["stop"]
    if given.get("tools"):
        out["tools"] = [_tool(tool) for tool in _dicts(given["tools"], "tools")]
        choice = _choice(given.get("tool_choice"), given.get("parallel_tool_calls"))
        if choice:
            out["tool_choice"] = choice
    output = _output(given)
    if output:
        out["output_config"] = output
    user = given.get("safety_identifier") or given.get("user")
    if isinstance(user, str) and user:
        out["metadata"] = {"user_id": user}
    tier = _TIERS.get(given["service_tier"]) if isinstance(given.get("service_tier"), str) else None
    if tier:
        out["service_tier"] = tier
    return out


READ = frozenset(
    (
        "messages",
        "temperature",
        "top_p",
        "top_k",
        "thinking",
        "stop",
        "tools",
        "functions",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "safety_identifier",
        "user",
        "service_tier",
    )
)
"""Fields of the pivot that have a counterpart, besides model, stream and the bounds."""


def _untranslatable(why: str, param: str) -> BadRequest:
    return BadRequest(f"The source speaks Anthropic's dialect, where {why}.", code=CODE, param=param)


def _output(given: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    effort = given.get("reasoning_effort")
    if isinstance(effort, str) and effort in _EFFORTS:
        out["effort"] = _EFFORTS[effort]
    form = given.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_object":
        raise _untranslatable("a JSON answer needs its schema (response_format json_schema)", "response_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        shape = form.get("json_schema")
        schema = shape.get("schema") if isinstance(shape, dict) else None
        if not isinstance(schema, dict):
            raise _untranslatable("json_schema needs a schema", "response_format")
        out["format"] = {"type": "json_schema", "schema": schema}
    return out


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, dict):
        raise _untranslatable("tools are functions", "tools")
    schema = function.get("parameters")
    out = {"name": function.get("name"), "input_schema": schema if isinstance(schema, dict) else {"type": "object"}}
    for name in ("description", "strict"):
        if function.get(name) is not None:
            out[name] = function[name]
    return out


def _choice(choice: object, parallel: object) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if choice == "none":
        return {"type": "none"}
    if choice == "required":
        out["type"] = "any"
    elif isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("function"), dict):
        out |= {"type": "tool", "name": choice["function"].get("name")}
    elif choice == "auto" or parallel is False:
        out["type"] = "auto"
    elif choice is not None:
        raise _untranslatable("a choice of tools is auto, required, none or one function", "tool_choice")
    if parallel is False:
        out["disable_parallel_tool_use"] = True
    return out


# -- messages


def _messages(given: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """(system prompt, messages). What systems and developers say stands before the conversation, wherever it was said;
    results of tools, and what their user says next, are one message."""
    system: list[str] = []
    out: list[dict[str, Any]] = []
    for message in given:
        role = message.get("role")
        if role in ("system", "developer"):
            system.append(_only_text(message.get("content")))
            continue
        if role == "user":
            blocks = _content(message.get("content"))
        elif role == "assistant":
            blocks = _said(message)
        elif role == "tool":
            blocks = [_result(message)]
        else:
            raise _untranslatable(f"messages of role {str(role)[:40]!r} are not known", "messages")
        speaker = "assistant" if role == "assistant" else "user"
        if not blocks:
            continue
        if out and out[-1]["role"] == speaker:
            out[-1]["content"].extend(blocks)
        else:
            out.append({"role": speaker, "content": blocks})
    return "\n".join(text for text in system if text), out


def _only_text(content: object) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text")) for part in content) if isinstance(content, list) else ""


def _content(content: object) -> list[dict[str, Any]]:
    """The blocks of a content; empty texts are none, since the dialect refuses them."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        return []
    blocks = []
    for part in content:
        if part.get("type") == "text":
            block = {"type": "text", "text": part["text"]}
            if not part["text"]:
                continue
        else:
            block = {"type": "image", "source": _image(part["image_url"])}
        if isinstance(part.get("cache_control"), dict):
            block["cache_control"] = part["cache_control"]
        blocks.append(block)
    return blocks


def _image(image: Any) -> dict[str, str]:
    url: str = image["url"] if isinstance(image, dict) else image
    if url[:5].lower() != "data:":
        return {"type": "url", "url": url}
    inline = _DATA.match(url)
    if inline is None:
        raise _untranslatable("an inline image is base64 of a JPEG, PNG, GIF or WebP", "messages")
    return {"type": "base64", "media_type": inline[1].lower(), "data": url[inline.end() :]}


def _said(message: dict[str, Any]) -> list[dict[str, Any]]:
    blocks = _content(message.get("content"))
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        blocks.append({"type": "text", "text": refusal})
    if message.get("function_call"):
        raise _untranslatable("use tool_calls in the place of function_call", "messages")
    for call in _dicts(message.get("tool_calls") or [], "messages"):
        function = call.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
            raise _untranslatable("a tool call is a function with arguments", "messages")
        tool_use = {"type": "tool_use", "id": _id(call.get("id")), "name": function.get("name")}
        blocks.append(tool_use | {"input": tool_input(function["arguments"])})
    return blocks


def _result(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    result = content if isinstance(content, str) else _content(content)
    return {"type": "tool_result", "tool_use_id": _id(message.get("tool_call_id")), "content": result}


def _id(given: object) -> str:
    """Other dialects' ids may hold characters that this one refuses."""
    return _NOT_IN_IDS.sub("_", str(given))


def _dicts(value: object, param: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _untranslatable(f"{param!r} holds lists of objects", param)
    return value
