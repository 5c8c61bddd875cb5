"""The settings of the live view. They are part of `interlock.settings.Settings`, which is what everybody uses."""

from __future__ import annotations

import dataclasses

from interlock.settings_waits import WaitSettings, setting


@dataclasses.dataclass(init=False, repr=False, eq=False, frozen=True, slots=True, kw_only=True)
class LiveSettings(WaitSettings):
    """See Settings."""

    live_window_s: int = setting(
        300, "How far back the live view's figures go.", group="live", minimum=30
    )  # fmt: skip
    live_calls_max: int = setting(
        20_000,
        "Calls of one tenant that the live view keeps; with more within `live_window_s` its figures are of the newest.",
        group="live",
        minimum=100,
    )
    live_bytes_max: int = setting(
        67_108_864,
        "Memory of all calls that the live view keeps, about 800 bytes each; above it the tenant with most gives up its"
        " oldest.",
        group="live",
        minimum=1_048_576,
    )
    live_running_max: int = setting(
        200,
        "Calls that run which a gateway node tells of while somebody watches, about 300 bytes each, once a second: of"
        " each tenant as many as of the others, and at most 300 of a worker.",
        group="live",
        minimum=1,
    )
    live_lines_max: int = setting(
        50, "Lines of the live view's list of requests: those that run, then those that just ended.", group="live",
        minimum=1,
    )  # fmt: skip
    live_silent_s: int = setting(
        60,
        "How long the live view shows a call that its gateway node does not tell of any more, and that no entry of the"
        " ledger says the end of.",
        group="live",
        minimum=5,
    )
    console_streams_max: int = setting(
        200, "Live pages that one control process keeps open streams to.", group="live", minimum=1
    )
    console_streams_own_max: int = setting(8, "Of these, those of one visitor.", group="live", minimum=1)
