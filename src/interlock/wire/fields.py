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
    # the provider looks things up on the web or in an index while it answers
    "web_search_options": FETCH_REMOTE,
    "search_parameters": FETCH_REMOTE,
    "search_options": FETCH_REMOTE,
    "enable_search": FETCH_REMOTE,
    "data_sources": FETCH_REMOTE,
    "plugins": FETCH_REMOTE,
    # vLLM's connectors fetch cache blocks from the host that these name; `vllm_xargs` reaches the same arguments
    "kv_transfer_params": FETCH_REMOTE,
    "ec_transfer_params": FETCH_REMOTE,
    "vllm_xargs": FETCH_REMOTE,
    "store": STORE,
    "metadata": STORE,
    "prompt_cache_key": STORE,
    "prompt_cache_retention": STORE,
    "cache_salt": STORE,
    "priority": SET_PRIORITY,
    "service_tier": SET_PRIORITY,
    "id_slot": SET_PRIORITY,
    "n": MULTIPLY,
    "best_of": MULTIPLY,
    "use_beam_search": MULTIPLY,
    "chat_template": CHANGE_TEMPLATE,
    "chat_template_kwargs": CHANGE_TEMPLATE,
    "add_generation_prompt": CHANGE_TEMPLATE,
    "continue_final_message": CHANGE_TEMPLATE,
    "add_special_tokens": CHANGE_TEMPLATE,
    "documents": CHANGE_TEMPLATE,
    "transforms": CHANGE_TEMPLATE,
    # how many tokens an image becomes
    "mm_processor_kwargs": CHANGE_TEMPLATE,
    "media_io_kwargs": CHANGE_TEMPLATE,
}
"""Field name -> the policy action it asks for. Harmless values (null, and those of `HARMLESS`) ask for nothing."""

HARMLESS: dict[str, tuple[bytes, ...]] = {
    "search_options": (b"{}",),
    "enable_search": (b"false",),
    "data_sources": (b"[]",),
    "plugins": (b"[]",),
    "kv_transfer_params": (b"{}",),
    "ec_transfer_params": (b"{}",),
    "vllm_xargs": (b"{}",),
    "store": (b"false",),
    "metadata": (b"{}",),
    "priority": (b"0",),
    "service_tier": (b'"auto"', b'"default"'),
    "id_slot": (b"-1",),
    "n": (b"1",),
    "best_of": (b"1",),
    "use_beam_search": (b"false",),
    "add_generation_prompt": (b"true",),
    "continue_final_message": (b"false",),
    "add_special_tokens": (b"false",),
    "chat_template_kwargs": (b"{}",),
    "documents": (b"[]",),
    "transforms": (b"[]",),
    "mm_processor_kwargs": (b"{}",),
    "media_io_kwargs": (b"{}",),
}
"""Field name -> values, as JSON, with which it asks for nothing; null is such a value of every field."""

FOREIGN: dict[str, str] = {
    "messages": "it belongs to chat completions",
    "prompt": "it belongs to completions",
    "input": "it belongs to embeddings",
    "prompt_embeds": "send the prompt as text or token ids",
    "n_predict": "use max_tokens",
    "n_cmpl": "use n",
    "lora": "ask for the adapter by its model name",
    "models": "name one model; other candidates are a matter of routing",
    "fallbacks": "name one model; failover is a matter of routing",
    "api_base": "where a source is and its credential are registered, not sent",
    "base_url": "where a source is and its credential are registered, not sent",
    "api_key": "where a source is and its credential are registered, not sent",
    "logits_processors": "load them where the engine is started",
}
"""Field name -> what to do instead. An engine, or a gateway in front of one, may read these beside, or in place of,
the prompt, the model, the place and the bound that were checked; `logits_processors` names code to run. Only
`messages`, `prompt` and `input` are taken, each by its own operation."""

OWN_FIELD = "interlock"
"""The body field that Interlock's own extensions ride in; never sent to a source."""
