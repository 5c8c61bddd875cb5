"""The settings of what the router learns. They are part of `interlock.settings.Settings`."""

from __future__ import annotations

import dataclasses

from interlock.settings_alerts import AlertSettings
from interlock.settings_waits import setting


@dataclasses.dataclass(init=False, repr=False, eq=False, frozen=True, slots=True, kw_only=True)
class LearningSettings(AlertSettings):
    """See Settings."""

    learning: str = setting(
        "tenant",
        "Whom the router learns for: `tenant`: tenants that do not say otherwise; `off`: none.",
        group="learning",
        choices=("tenant", "off"),
    )
    learning_interval_ms: int = setting(
        2_000, "How often the ledger is looked at for new outcomes.", group="learning", minimum=100
    )
    learning_publish_ms: int = setting(
        30_000, "Shortest time between two states of one tenant's router.", group="learning", minimum=100
    )
    learning_calls_per_look: int = setting(
        1_000, "Entries of a tenant read at one look; the next ones wait for the next.", group="learning", minimum=1
    )
    learning_calls_at_start: int = setting(
        20_000, "Last entries of a tenant that are read again when the learner starts.", group="learning", minimum=0
    )
    learning_outcomes_max: int = setting(
        4_096,
        "Last outcomes of a tenant that are remembered, and learned over; as many again are laid aside, of judges"
        " that are not trusted.",
        group="learning",
        minimum=128,
    )
    learning_words_max: int = setting(
        8_192, "Words of a tenant's prompts whose meaning is published.", group="learning", minimum=16, maximum=65_536
    )
    learning_arms_max: int = setting(
        64, "Models per tenant that are told apart; of further ones priors count.", group="learning", minimum=1
    )
    learning_teams_max: int = setting(
        64,
        "Teams per tenant whose quality of answers is told apart, those with most outcomes; others together.",
        group="learning",
        minimum=1,
    )
    learning_tenants_max: int = setting(
        256, "Tenants that are learned about; the first ones by id.", group="learning", minimum=1
    )
    learning_shared_outcomes_min: int = setting(
        30,
        "Outcomes of other tenants that share theirs before what they have seen of a model counts.",
        group="learning",
        minimum=2,
        maximum=1_000,
    )
    learning_shared_tenants_min: int = setting(
        2,
        "Other tenants that these have to come from at least; none of them weighs more than such a part of them.",
        group="learning",
        minimum=2,
        maximum=100,
    )
    learning_shared_weight_max: int = setting(
        20, "The most outcomes that what other tenants have seen of a model counts as.", group="learning", minimum=1
    )
    learning_set_outcomes_max: int = setting(
        10_000,
        "The most outcomes that what an administrator says of a model may count as.",
        group="learning",
        minimum=1,
        maximum=1_000_000,
    )
    explore_share_milli: int = setting(
        20,
        "Thousandths of a tenant's calls that may go to another model than the best, to learn about it; 0: none.",
        group="learning",
        minimum=0,
        maximum=500,
    )
    explore_cold_calls: int = setting(
        20, "Calls per model that may be tried on top while little is known.", group="learning", minimum=0
    )
    explore_money_milli: int = setting(
        50,
        "What such calls may cost more than the best in the long run, in thousandths of what all cost; 0: nothing.",
        group="learning",
        minimum=0,
    )
    explore_data_class_max: str = setting(
        "internal",
        "Highest data class of calls with which another model is tried.",
        group="learning",
        choices=("public", "internal", "confidential", "restricted"),
    )
    judge_calls_max: int = setting(
        8, "Calls of a worker that are judged or challenged at a time; no further ones.", group="learning", minimum=0
    )
    judge_answer_bytes_max: int = setting(
        131_072, "Larger answers, as they leave for their callers, are not judged.", group="learning", minimum=1024
    )
    judge_prompt_bytes_max: int = setting(
        65_536,
        "What a judge is asked, question and answers together, is not sent when it is larger.",
        group="learning",
        minimum=4096,
    )
    what_if_snapshots_max: int = setting(
        64, "Snapshot versions that one what-if of routing keeps at a time.", group="learning", minimum=1
    )
