"""Which request fields are more than parameters: they fetch, persist, prioritise, multiply or change the template.

Such a field is a policy action: it is denied unless a policy permits the action (see `interlock.policy`).
Everything else is either known to the dialect, or follows the source's `extra_fields` rule.
"""

from __future__ import annotations

USE_IMAGES = "use_images"
FETCH_REMOTE = "fetch_remote"
STORE = "store"
SET_PRIORITY = "set_priority"
MULTIPLY = "multiply"
CHANGE_TEMPLATE = "change_template"

ACTIONS = (USE_IMAGES, FETCH_REMOTE, STORE, SET_PRIORITY, MULTIPLY, CHANGE_TEMPLATE)

FIELD_ACTIONS: dict[str, str] = {
    "web_search_options": FETCH_REMOTE,
    "store": STORE,
    "metadata": STORE,
    "prompt_cache_key": STORE,
    "prompt_cache_retention": STORE,
    "kv_transfer_params": STORE,
    "priority": SET_PRIORITY,
    "service_tier": SET_PRIORITY,
    "n": MULTIPLY,
    "n_cmpl": MULTIPLY,
    "best_of": MULTIPLY,
    "use_beam_search": MULTIPLY,
    "chat_template": CHANGE_TEMPLATE,
    "chat_template_kwargs": CHANGE_TEMPLATE,
    "add_generation_prompt": CHANGE_TEMPLATE,
    "continue_final_message": CHANGE_TEMPLATE,
    "add_special_tokens": CHANGE_TEMPLATE,
    "documents": CHANGE_TEMPLATE,
    "mm_processor_kwargs": CHANGE_TEMPLATE,
    "id_slot": SET_PRIORITY,
    "cache_salt": STORE,
}
"""Field name -> the policy action it asks for. Harmless values (see `HARMLESS`) ask for nothing."""

HARMLESS: dict[str, tuple[bytes, ...]] = {
    "store": (b"false", b"null"),
    "metadata": (b"null", b"{}"),
    "n": (b"1", b"null"),
    "best_of": (b"1", b"null"),
    "priority": (b"0", b"null"),
    "service_tier": (b'"auto"', b'"default"', b"null"),
    "use_beam_search": (b"false", b"null"),
    "add_generation_prompt": (b"true", b"null"),
    "continue_final_message": (b"false", b"null"),
    "add_special_tokens": (b"false", b"null"),
    "chat_template": (b"null",),
    "chat_template_kwargs": (b"null", b"{}"),
    "documents": (b"null", b"[]"),
    "mm_processor_kwargs": (b"null", b"{}"),
    "web_search_options": (b"null",),
    "prompt_cache_key": (b"null",),
    "prompt_cache_retention": (b"null",),
    "kv_transfer_params": (b"null",),
    "cache_salt": (b"null",),
}

FOREIGN: dict[str, str] = {
    "messages": "it belongs to chat completions",
    "prompt": "it belongs to completions",
    "input": "it belongs to embeddings",
    "prompt_embeds": "send the prompt as text or token ids",
    "n_predict": "use max_tokens",
}
"""Field name -> what to do instead. An engine may read these beside, or in place of, the prompt and the bound that
were checked; only `messages`, `prompt` and `input` are taken, each by its own operation."""

OWN_FIELD = "interlock"
"""The body field that Interlock's own extensions ride in; never sent to a source."""
