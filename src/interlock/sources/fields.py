"""The request fields that each kind of source understands, as data.

A field is *standard* (OpenAI's API reference), of the *engine* (an extension that this kind of source documents),
*foreign* (an extension of another kind: this source would ignore it) or *unknown*. What happens to foreign and unknown
fields is the source's `extra_fields` rule. Fields that are policy actions (`interlock.wire.fields`) are not subject to
it: a policy has let them pass.

Taken from OpenAI's API reference, vLLM's request models (0.32; it ignores the `guided_*` names of older versions, so
they are unknown here) and the documentation of llama.cpp's server. Fields that are refused at the door (`FOREIGN`
there) are in no list.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from enum import StrEnum

from interlock.types.source import SourceKind
from interlock.wire.fields import FIELD_ACTIONS, OWN_FIELD


class FieldClass(StrEnum):
    """How much is known of a request field at a kind of source."""

    standard = "standard"
    engine = "engine"
    foreign = "foreign"
    unknown = "unknown"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


STANDARD: dict[str, frozenset[str]] = {
    "chat": _names(
        "messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens "
        "max_tokens metadata modalities n parallel_tool_calls prediction presence_penalty prompt_cache_key "
        "prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store stream "
        "stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options"
    ),
    "completions": _names(
        "model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop "
        "stream stream_options suffix temperature top_p user"
    ),
    "embeddings": _names("input model dimensions encoding_format user"),
    "rerank": _names("model query documents top_n return_documents"),
    "score": _names("model text_1 text_2 data_1 data_2 queries documents"),
}
"""Operation -> fields of OpenAI's API reference; of rerank and score, which it does not have, those of vLLM's."""

_VLLM_SAMPLING = _names(
    "use_beam_search top_k min_p repetition_penalty length_penalty stop_token_ids include_stop_str_in_output "
    "ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens truncate_prompt_tokens truncation_side "
    "allowed_token_ids bad_words prompt_logprobs logprob_token_ids watermarking add_special_tokens structured_outputs "
    "response_format priority request_id session_id return_tokens_as_token_ids return_token_ids return_token_offsets "
    "return_mm_kwargs mm_payload cache_salt kv_transfer_params ec_transfer_params vllm_xargs "
    "repetition_detection thinking_token_budget stream_interval routed_experts_prompt_start best_of"
)
_VLLM_JUDGING = _names(
    "truncate_prompt_tokens truncation_side use_activation softmax activation add_special_tokens request_id priority "
    "mm_processor_kwargs cache_salt"
)
_LLAMACPP_SAMPLING = _names(
    "dynatemp_range dynatemp_exponent top_k min_p top_n_sigma n_indent n_keep n_discard n_cache_reuse "
    "typical_p typ_p repeat_penalty repeat_last_n dry_multiplier dry_base dry_allowed_length dry_penalty_last_n "
    "dry_sequence_breakers xtc_probability xtc_threshold mirostat mirostat_tau mirostat_eta adaptive_target "
    "adaptive_decay grammar grammar_lazy grammar_triggers json_schema ignore_eos n_probs min_keep t_max_predict_ms "
    "id_slot cache_prompt return_tokens samplers timings_per_token return_progress sse_ping_interval "
    "post_sampling_probs response_fields backend_sampling"
)

_OLLAMA = _names(
    "top_k min_p typical_p repeat_last_n repeat_penalty repetition_penalty mirostat mirostat_tau mirostat_eta num_keep "
    "num_ctx tfs_z penalize_newline"
)
"""Its options, which `interlock.wire.ollama` puts where it reads them."""

ENGINE: dict[SourceKind, dict[str, frozenset[str]]] = {
    SourceKind.vllm: {
        "chat": _VLLM_SAMPLING
        | _names(
            "echo add_generation_prompt continue_final_message documents chat_template chat_template_kwargs "
            "media_io_kwargs mm_processor_kwargs include_reasoning return_prompt_text"
        ),
        "completions": _VLLM_SAMPLING,
        "embeddings": _names(
            "truncate_prompt_tokens truncation_side padding add_special_tokens add_generation_prompt "
            "continue_final_message chat_template chat_template_kwargs mm_processor_kwargs priority request_id "
            "media_io_kwargs use_activation embed_dtype endianness cache_salt"
        ),
        "rerank": _VLLM_JUDGING,
        "score": _VLLM_JUDGING,
    },
    SourceKind.llamacpp: {
        "chat": _LLAMACPP_SAMPLING
        | _names(
            "chat_template_kwargs add_generation_prompt continue_final_message reasoning_format thinking_forced_open "
            "thinking_budget_tokens reasoning_budget_tokens parse_tool_calls"
        ),
        "completions": _LLAMACPP_SAMPLING,
        "embeddings": _names("embd_normalize"),
        "rerank": frozenset(),
        "score": frozenset(),
    },
    SourceKind.ollama: {
        "chat": _OLLAMA,
        "completions": _OLLAMA,
        "embeddings": _names("num_ctx"),
        "rerank": frozenset(),
        "score": frozenset(),
    },
    SourceKind.openai: {
        # of compatible clouds; all of them are policy actions
        "chat": _names("search_parameters search_options enable_search data_sources plugins transforms"),
        "completions": frozenset(),
        "embeddings": frozenset(),
        "rerank": frozenset(),
        "score": frozenset(),
    },
    SourceKind.anthropic: {
        "chat": _names("thinking top_k"),
        "completions": frozenset(),
        "embeddings": frozenset(),
        "rerank": frozenset(),
        "score": frozenset(),
    },
}
"""Kind -> operation -> fields beyond the standard ones that it documents."""


@functools.cache
def _understood(kind: SourceKind, operation: str) -> frozenset[str]:
    return STANDARD[operation] | ENGINE[kind][operation] | FIELD_ACTIONS.keys() | {OWN_FIELD}


def classify(kind: SourceKind, operation: str, field: str) -> FieldClass:
    """What a field is at this kind of source, in an operation ("chat", "rerank")."""
    if field in STANDARD[operation]:
        return FieldClass.standard
    if field in ENGINE[kind][operation]:
        return FieldClass.engine
    if any(field in engine[operation] for engine in ENGINE.values()):
        return FieldClass.foreign
    return FieldClass.unknown


def uninterpreted(kind: SourceKind, operation: str, fields: Iterable[str]) -> tuple[str, ...]:
    """The fields, in order, that neither the standard nor this kind of source nor policy knows.

    `fields`: names of a request's fields, or a mapping by them.
    """
    understood = _understood(kind, operation)
    return tuple(field for field in fields if field not in understood)
