"""How a setting is declared, and the settings of what calls wait for at their node: idempotency keys, stored responses.

They are part of `interlock.settings.Settings`, which is what everybody uses. No such part is made alone, so
parts get no methods: making these again for each part took a third of the time that a process needs for its settings.
"""

from __future__ import annotations

import dataclasses
from typing import Any


def setting(
    default: Any,
    doc: str,
    *,
    group: str,
    minimum: int | None = None,
    maximum: int | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a setting: its default, one sentence for the documentation, its group, and what it may be."""
    told = {"doc": doc, "group": group, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=default, metadata=told)


@dataclasses.dataclass(init=False, repr=False, eq=False, frozen=True, slots=True, kw_only=True)
class WaitSettings:
    """See Settings."""

    # -- idempotency
    idempotency_keep_s: int = setting(
        86_400, "How long an idempotency key stands for its first request.", group="idempotency", minimum=1
    )
    idempotency_wait_ms: int = setting(
        10_000,
        "Longest wait of a repeated request for the first one under its idempotency key to end.",
        group="idempotency",
        minimum=1,
    )
    idempotency_answer_bytes_max: int = setting(
        262_144,
        "Longest answer kept for repeated requests (at most 700,000); of a longer one they are told that it was given.",
        group="idempotency",
        minimum=0,
    )

    # -- responses
    responses_keep_days: int = setting(
        30,
        "How long stored responses can be read and continued, where their tenant keeps contents no shorter; 0: none is"
        " stored.",
        group="responses",
        minimum=0,
    )
    responses_store_default: int = setting(
        1,
        "Whether a response is stored whose request does not say: 1, as in OpenAI's API, or 0.",
        group="responses",
        minimum=0,
    )
    responses_bytes_max: int = setting(
        524_288,
        "Largest stored response with its own input, compressed (at most 700,000); a larger one is not stored.",
        group="responses",
        minimum=0,
    )
    responses_turns_max: int = setting(
        1000, "Most stored responses that one conversation goes on from.", group="responses", minimum=1
    )
    responses_context_bytes_max: int = setting(
        8_000_000, "Most bytes of these together, compressed.", group="responses", minimum=1024
    )
    responses_wait_ms: int = setting(5000, "Longest wait of a call for stored responses.", group="responses", minimum=1)
    responses_waiting_max: int = setting(
        1000, "Calls of one worker that wait for stored responses.", group="responses", minimum=1
    )

    responses_waiting_own_max: int = setting(100, "Of these, those of one person.", group="responses", minimum=1)

    # -- feedback
    feedback_corrected_bytes_max: int = setting(
        65_536, "Longest corrected answer that feedback may bring.", group="feedback", minimum=1
    )
    feedback_comment_bytes_max: int = setting(4096, "Longest comment in feedback.", group="feedback", minimum=1)
    feedback_wait_ms: int = setting(
        1000,
        "Longest wait for the node to say whose call feedback is of; then it is accepted, and the ledger finds out.",
        group="feedback",
        minimum=1,
    )
    feedback_waiting_s: int = setting(
        86_400,
        "How long accepted feedback waits for its call to come into the ledger, before it counts nowhere.",
        group="feedback",
        minimum=60,
    )
    feedback_waiting_max: int = setting(
        10_000, "Most accepted feedback of a tenant that waits so; the oldest is given up.", group="feedback", minimum=1
    )
