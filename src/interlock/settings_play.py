"""The settings of the console's playground, and of what its ledger pages make on disk.

They are part of `interlock.settings.Settings`, which is what everybody uses.
"""

from __future__ import annotations

import dataclasses

from interlock.settings_live import LiveSettings
from interlock.settings_waits import setting


@dataclasses.dataclass(init=False, repr=False, eq=False, frozen=True, slots=True, kw_only=True)
class PlaySettings(LiveSettings):
    """See Settings."""

    # -- playground
    playground_gateway_url: str = setting(
        "",
        "URL of the gateway that the console's playground calls; empty: the gateway node that was heard of last.",
        group="playground",
    )
    playground_ca_file: str = setting(
        "", "CA certificates (PEM) that vouch for the gateway there; empty: the system's.", group="playground"
    )
    playground_calls_max: int = setting(
        4, "Calls of one person that run in the playground at the same time.", group="playground", minimum=1
    )
    playground_call_ms: int = setting(
        300_000, "Longest that a call of the playground may take.", group="playground", minimum=1000
    )
    playground_answer_bytes_max: int = setting(
        4_000_000, "Most bytes of one answer in the playground; a longer one is cut.", group="playground", minimum=1024
    )
    playground_key_s: int = setting(
        900, "How long a key lasts that the playground makes for a signed-in person.", group="playground", minimum=60
    )

    # -- the console
    console_logins_max: int = setting(
        10_000,
        "Sign-ins at identity providers that may be under way at the same time; with more, nobody else begins one.",
        group="console",
        minimum=1,
    )
    console_export_bytes_max: int = setting(
        256_000_000,
        "Most bytes of an export that the console's pages make or verify; a larger range is for the command line.",
        group="console",
        minimum=1024,
    )
    console_exports_max: int = setting(
        2, "Exports that pages of one control process make or verify at the same time.", group="console", minimum=1
    )
    alias_compare_entries_max: int = setting(
        4000,
        "Entries of the ledger that an alias's page looks at to compare its ways; of a longer time an even sample.",
        group="console",
        minimum=100,
    )
    alias_compare_calls_max: int = setting(
        1500, "Calls of such a sample that are compared.", group="console", minimum=100
    )  # fmt: skip
    policy_grid_callers_max: int = setting(
        25, "Callers in the grid of what a draft of policies would change; the list below it has them all.",
        group="console", minimum=1,
    )  # fmt: skip
    policy_grid_offers_max: int = setting(
        8, "Models at sources in that grid.", group="console", minimum=1
    )  # fmt: skip
    policy_changes_page_max: int = setting(
        50, "Changes on a page of the list below that grid.", group="console", minimum=1
    )  # fmt: skip
    policy_calls_listed_max: int = setting(
        50, "Logged calls that a comparison of policies lists as examples.", group="console", minimum=1
    )  # fmt: skip
