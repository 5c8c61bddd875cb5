"""The settings of where calls go, and of what they wait for there: workload classes, routing.

They are part of `interlock.settings.Settings`, which is what everybody uses.
"""

from __future__ import annotations

import dataclasses

from interlock.settings_learning import LearningSettings
from interlock.settings_waits import setting

__all__ = ["RoutingSettings", "setting"]


@dataclasses.dataclass(init=False, repr=False, eq=False, frozen=True, slots=True, kw_only=True)
class RoutingSettings(LearningSettings):
    """See Settings."""

    # -- workload classes
    queue_wait_ms_interactive: int = setting(
        30_000, "Longest wait of an interactive call for a seat at a source; 0: none.", group="workloads", minimum=0
    )
    queue_wait_ms_batch: int = setting(
        300_000, "Longest wait of a batch call for a seat at a source; 0: none.", group="workloads", minimum=0
    )
    queue_wait_ms_background: int = setting(
        600_000, "Longest wait of a background call for a seat at a source; 0: none.", group="workloads", minimum=0
    )
    queue_calls_max: int = setting(
        1024, "Calls of one worker that wait for seats; above it less urgent ones give way.", group="workloads",
        minimum=1,
    )  # fmt: skip
    queue_promote_ms: int = setting(
        60_000, "Wait after which a call counts as one class more urgent in the queue; 0: never.", group="workloads",
        minimum=0,
    )  # fmt: skip
    queue_tenants_max: int = setting(
        64, "Tenants told apart at one contended source; more share a place.", group="workloads", minimum=1
    )
    overflow_wait_ms_interactive: int = setting(
        0,
        "Wait for a full source of one's own before an interactive call overflows off-prem; 0: at once, -1: never.",
        group="workloads",
        minimum=-1,
    )
    overflow_wait_ms_batch: int = setting(
        60_000,
        "Wait for a full source of one's own before a batch call overflows off-prem; 0: at once, -1: never.",
        group="workloads",
        minimum=-1,
    )
    overflow_wait_ms_background: int = setting(
        -1,
        "Wait for a full source of one's own before a background call overflows off-prem; 0: at once, -1: never.",
        group="workloads",
        minimum=-1,
    )

    # -- placement
    placement_text_bytes_max: int = setting(
        4096,
        "Bytes of a conversation's opening that decide which replica it goes to; 0: replicas only share their load.",
        group="placement",
        minimum=0,
    )
    placement_load_slack: int = setting(
        4, "Calls that a replica may have, whatever its replicas have.", group="placement", minimum=1
    )
    placement_load_factor_milli: int = setting(
        1200,
        "Thousandths of its replicas' mean load above which a replica's conversations go to the next one.",
        group="placement",
        minimum=1000,
    )
    placement_kv_permille_max: int = setting(
        950,
        "Thousandths of its KV cache in use above which a replica stands behind its replicas.",
        group="placement",
        minimum=1,
    )
    placement_wait_ms_max: int = setting(
        2000,
        "Predicted wait in its queue above which a replica stands behind its replicas; 0: none does for that.",
        group="placement",
        minimum=0,
    )

    # -- routing
    breaker_failures: int = setting(
        5, "Failures in a row that open a source's circuit breaker.", group="routing", minimum=1
    )
    breaker_open_ms: int = setting(10_000, "How long an open breaker lets nothing through.", group="routing", minimum=1)
    breaker_probes: int = setting(1, "Calls let through to test a half-open breaker.", group="routing", minimum=1)
    learned_tenants_max: int = setting(
        256, "Tenants whose learned router state a worker holds decoded.", group="routing", minimum=1
    )
    candidates_max: int = setting(50, "Most candidates ranked for a call.", group="routing", minimum=1)
    cold_start_wait_ms: int = setting(
        20_000,
        "Longest wait of a call for a managed engine that is starting, if no other source may take it; 0: none waits.",
        group="routing",
        minimum=0,
    )
    cold_start_calls_max: int = setting(
        256,
        "Calls of one worker that wait for engines that are starting; more are refused.",
        group="routing",
        minimum=0,
    )
    canaries_max: int = setting(
        64, "Running canaries that a node watches; further ones get no calls.", group="routing", minimum=1
    )
    cascade_answer_bytes_max: int = setting(
        1_048_576, "Largest answer of a cascade's step that is held to be checked.", group="routing", minimum=1024
    )
    shadows_max: int = setting(
        8, "Calls of a worker that are compared with a shadow at a time; no further ones.", group="routing", minimum=0
    )
    shadow_answer_bytes_max: int = setting(
        131_072, "Larger answers are not compared with a shadow's.", group="routing", minimum=1024
    )
