"""What an Ollama server offers: `/api/tags` lists its models, `/api/show` tells of each what it can do.

Source: Ollama API reference, "List Local Models", "Show Model Information".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from interlock.types.model_names import parameters_named, parameters_told
from interlock.types.source import Ability, Model

ABILITIES: dict[str, tuple[str, ...]] = {
    "completion": (Ability.chat, Ability.completions, Ability.json_schema),
    "tools": (Ability.tools,),
    "vision": (Ability.vision,),
    "thinking": (Ability.thinking,),
    "embedding": (Ability.embeddings,),
}
"""What Ollama calls a capability -> the abilities that it is. Any other (`insert`) is none that decisions know."""
LOGPROBS_SINCE = (0, 12, 11)
"""Servers before that do not tell probabilities."""
_NUM_CTX = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")


def model_of(name: str, digest: str, shown: Mapping[str, Any], server: str, context_tokens: int) -> Model:
    """One model, from its name and digest in the list and from what was shown of it (empty: it was not asked).

    `server`: the server's version. `context_tokens`: the context that the source declares; 0: none.
    """
    return Model(
        name,
        _abilities(shown, server),
        context_length(shown, context_tokens),
        version=digest.removeprefix("sha256:"),
        parameters_m=_parameters_m(shown),
    )


def _parameters_m(shown: Mapping[str, Any]) -> int:
    """Millions of parameters; 0: it does not tell."""
    info, details = shown.get("model_info"), shown.get("details")
    counted = parameters_told(info.get("general.parameter_count")) if isinstance(info, dict) else 0
    told = details.get("parameter_size") if isinstance(details, dict) else None
    return counted or (parameters_named(told) if isinstance(told, str) else 0)


def _abilities(shown: Mapping[str, Any], server: str) -> tuple[str, ...]:
    capabilities = shown.get("capabilities")
    if not isinstance(capabilities, list):  # servers before 0.6.4
        capabilities = ["completion"]
    found = [str(ability) for name in capabilities if isinstance(name, str) for ability in ABILITIES.get(name, ())]
    match = _VERSION.match(server)
    if Ability.chat in found and match is not None and tuple(map(int, match.groups())) >= LOGPROBS_SINCE:
        found.append(str(Ability.logprobs))
    return tuple(dict.fromkeys(found))


def context_length(shown: Mapping[str, Any], declared: int) -> int:
    """Tokens that fit: those that the source declares or the model's own parameters set, at most those the model was
    made for. 0: unknown."""
    most = trained_length(shown)
    parameters = shown.get("parameters")
    match = _NUM_CTX.search(parameters) if isinstance(parameters, str) else None
    served = declared or (int(match[1]) if match is not None else 0)
    return min(served, most) if served and most else served or most


def trained_length(shown: Mapping[str, Any]) -> int:
    """The context that the model was made for; 0: unknown."""
    info = shown.get("model_info")
    if not isinstance(info, dict):
        return 0
    for name, value in info.items():
        if name.endswith(".context_length") and type(value) is int and 0 < value < 1 << 31:
            return value
    return 0


def sets_context(shown: Mapping[str, Any]) -> bool:
    """Whether the model's own parameters say how large a context it is loaded with."""
    parameters = shown.get("parameters")
    return isinstance(parameters, str) and _NUM_CTX.search(parameters) is not None
