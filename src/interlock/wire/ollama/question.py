"""What an Ollama server is asked: a checked request of the pivot in Ollama's terms.

| pivot | Ollama |
|---|---|
| chat | `/api/chat` |
| completions | `/api/generate`, raw; with a `suffix` through the model's template, which is what knows how to fill in |
| embeddings | `/api/embed` |

What cannot be said is refused (`untranslatable`), not left out: a caller who forces a tool call must not get an answer
that was made without it. What only hints (`user`, `parallel_tool_calls: true`) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.errors import BadRequest
from interlock.types.source import Ability

if TYPE_CHECKING:
    from interlock.types.source import Source
    from interlock.wire.openai import Fields
    from interlock.wire.speech import Ask

CODE = "untranslatable"
"""Code of the error when a request cannot be put into a source's dialect: another source may take it."""
PATHS = {"chat": "/chat", "completions": "/generate", "embeddings": "/embed"}

OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "top_k": "top_k",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_last_n": "repeat_last_n",
    "repeat_penalty": "repeat_penalty",
    "repetition_penalty": "repeat_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
    "num_keep": "num_keep",
    "tfs_z": "tfs_z",
    "penalize_newline": "penalize_newline",
}
"""Field of the pivot (OpenAI's, or as llama.cpp and vLLM name it) -> Ollama's option."""
CONTEXT = "num_ctx"
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logit_bias": ({},),
    "echo": (False,),
    "tool_choice": ("auto", "none"),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "store": (False,),
}
"""Fields that would change the answer and have no equal at Ollama -> values with which they ask for nothing."""
_EFFORTS: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}
_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode


def cannot(what: str, param: str) -> BadRequest:
    """The error for what a dialect has no words for."""
    return BadRequest(f"{what} cannot be said to an Ollama source.", code=CODE, param=param)


def path_of(operation: str) -> str:
    """The endpoint, after `/api`. Raises BadRequest."""
    path = PATHS.get(operation)
    if path is None:
        raise cannot(f"The operation {operation!r}", "model")
    return path


def body_of(ask: Ask) -> bytes:
    """The body for the endpoint of the request's operation. Raises BadRequest (`untranslatable`)."""
    parsed = ask.parsed
    fields = {name: _decode(raw) for name, raw in parsed.fields.items()}
    for name, harmless in _HARMLESS.items():
        value = fields.get(name)
        if value is not None and value not in harmless:
            raise cannot(f"{name}: {str(value)[:40]}", name)
    out = _MAKE[parsed.operation](fields, ask)
    out["model"] = ask.offer.model.name
    kept = keep_alive(ask.source)
    if kept is not None:
        out["keep_alive"] = kept
    return _encode(out)


def keep_alive(source: Source) -> str | int | None:
    """How long the model stays loaded after a call, as Ollama writes it; None: as the server does by itself."""
    ms = source.timeouts.keep_loaded_ms
    if ms is None:
        return None
    return -1 if ms < 0 else f"{ms}ms"


def _chat(fields: dict[str, Any], ask: Ask) -> dict[str, Any]:
    out: dict[str, Any] = {"messages": _messages(fields["messages"])}
    tools = fields.get("tools")
    if tools and fields.get("tool_choice") != "none":
        out["tools"] = tools
    out.update(_generating(fields, ask))
    think = _thinking(fields, ask)
    if think is not None:
        out["think"] = think
    return out


def _completion(fields: dict[str, Any], ask: Ask) -> dict[str, Any]:
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise cannot("A prompt that is not one text", "prompt")
    out: dict[str, Any] = {"prompt": prompt}
    suffix = fields.get("suffix")
    if suffix:
        out["suffix"] = suffix
    else:
        out["raw"] = True
    out.update(_generating(fields, ask))
    return out


def _embeddings(fields: dict[str, Any], ask: Ask) -> dict[str, Any]:
    given = fields["input"]
    texts = [given] if isinstance(given, str) else given
    if not all(isinstance(text, str) for text in texts):
        raise cannot("An input of token ids", "input")
    out: dict[str, Any] = {"input": texts, "truncate": False}
    if fields.get("dimensions"):
        out["dimensions"] = fields["dimensions"]
    options = _context({}, fields, ask)
    if options:
        out["options"] = options
    return out


_MAKE: dict[str, Callable[[dict[str, Any], Ask], dict[str, Any]]] = {
    "chat": _chat,
    "completions": _completion,
    "embeddings": _embeddings,
}


def _generating(fields: dict[str, Any], ask: Ask) -> dict[str, Any]:
    """What chat and completions have in common. Nothing is cut off silently: a prompt that does not fit is an error of
    the server (`truncate`), and so is a context that is full (`shift`); servers before 0.12.4 do not know these."""
    options = {name: fields[field] for field, name in OPTIONS.items() if fields.get(field) is not None}
    stop = fields.get("stop")
    if stop is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    # Ollama's own default is no bound at all.
    options["num_predict"] = ask.parsed.max_tokens or ask.bound or ask.completion_tokens_max
    out: dict[str, Any] = {
        "stream": ask.parsed.stream,
        "truncate": False,
        "shift": False,
        "options": _context(options, fields, ask),
    }
    form = _format(fields.get("response_format"))
    if form is not None:
        out["format"] = form
    if fields.get("logprobs"):
        out["logprobs"] = True
        most = fields.get("top_logprobs")
        if isinstance(fields["logprobs"], int) and not isinstance(fields["logprobs"], bool):
            most = fields["logprobs"]  # completions: how many
        if most:
            out["top_logprobs"] = most
    return out


def _context(options: dict[str, Any], fields: dict[str, Any], ask: Ask) -> dict[str, Any]:
    """A model is loaded anew for each size of context: one that the source declares holds for every call."""
    declared, most = ask.source.limits.context_tokens, ask.offer.model.context_length
    asked = _asked_context(fields, ask)
    if declared:
        options[CONTEXT] = declared
    elif asked:
        options[CONTEXT] = min(asked, most) if most else asked
    return options


def _asked_context(fields: dict[str, Any], ask: Ask) -> int:
    asked = fields.get(CONTEXT)
    native = ask.parsed.native
    if asked is None and native is not None and native.dialect == "ollama":
        asked = _native(native.fields, "options").get(CONTEXT)
    return asked if isinstance(asked, int) and not isinstance(asked, bool) and asked > 0 else 0


def _native(fields: Fields, name: str) -> dict[str, Any]:
    value = _decode(fields[name]) if name in fields else None
    return value if isinstance(value, dict) else {}


def _thinking(fields: dict[str, Any], ask: Ask) -> bool | str | None:
    """An effort is a hint, which a model that does not think never hears of; what an Ollama client says is said."""
    native = ask.parsed.native
    if native is not None and native.dialect == "ollama" and "think" in native.fields:
        think: bool | str | None = _decode(native.fields["think"])
        return think
    effort = fields.get("reasoning_effort")
    if effort is None or Ability.thinking.value not in ask.offer.model.abilities:
        return None
    if not isinstance(effort, str) or effort not in _EFFORTS:
        raise cannot(f"reasoning_effort: {str(effort)[:40]}", "reasoning_effort")
    return _EFFORTS[effort]


def _format(form: dict[str, Any] | None) -> Any:
    if not form or form.get("type") == "text":
        return None
    if form.get("type") == "json_object":
        return "json"
    described = form.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if not isinstance(schema, dict):
        raise BadRequest("Field 'response_format.json_schema' needs a schema.", param="response_format")
    return schema


# -- messages


def _messages(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    out = []
    names: dict[str, str] = {}
    for message in given:
        role = message.get("role")
        if role == "developer":
            role = "system"
        if role not in ("system", "user", "assistant", "tool"):
            raise cannot(f"A message of role {str(role)[:40]!r}", "messages")
        text, images = _content(message.get("content"))
        refusal = message.get("refusal")
        said: dict[str, Any] = {"role": role, "content": text or (refusal if isinstance(refusal, str) else "")}
        if images:
            said["images"] = images
        thought = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(thought, str):
            said["thinking"] = thought
        if message.get("function_call"):
            raise cannot("A message with function_call", "messages")
        calls = message.get("tool_calls")
        if calls:
            if not isinstance(calls, list):
                raise BadRequest("Field 'tool_calls' of a message must be a list.", param="messages")
            said["tool_calls"] = [_tool_call(call, names) for call in calls]
        if role == "tool":
            call_id = message.get("tool_call_id")
            if isinstance(call_id, str):
                said["tool_call_id"] = call_id
                if call_id in names:
                    said["tool_name"] = names[call_id]
        out.append(said)
    return out


def _content(content: Any) -> tuple[str, list[str]]:
    """Text and images of a message. Images leave as the base64 of their data; what would be fetched is refused."""
    if not isinstance(content, list):
        return content or "", []
    texts, images = [], []
    for part in content:
        if part["type"] == "text":
            texts.append(part["text"])
            continue
        image = part["image_url"]
        url = image["url"] if isinstance(image, dict) else image
        head, _, data = url.partition(",")
        if not head.lower().startswith("data:") or not head.lower().endswith(";base64"):
            raise cannot("An image that is not sent as base64 data", "messages")
        images.append(data)
    return "\n".join(texts), images


def _tool_call(call: Any, names: dict[str, str]) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequest("A tool call needs function.name.", param="messages")
    arguments = function.get("arguments") or "{}"
    try:
        decoded = _decode(arguments) if isinstance(arguments, str) else arguments
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        raise cannot("A tool call whose arguments are no JSON object", "messages")
    out: dict[str, Any] = {"function": {"name": function["name"], "arguments": decoded}}
    if isinstance(call.get("id"), str):
        out["id"] = call["id"]
        names[call["id"]] = function["name"]
    return out
