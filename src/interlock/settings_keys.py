"""The settings of keys that people make for themselves. They are part of `interlock.settings.Settings`."""

from __future__ import annotations

import dataclasses

from interlock.settings_play import PlaySettings
from interlock.settings_waits import setting


@dataclasses.dataclass(init=False, repr=False, eq=False, frozen=True, slots=True, kw_only=True)
class OwnKeySettings(PlaySettings):
    """See Settings."""

    quota_requests_open_max: int = setting(
        10, "Open requests for more of a budget that one person may have in a tenant.", group="own keys", minimum=1
    )
    own_keys_max: int = setting(
        10, "Working keys with which somebody can make no more for themselves.", group="own keys", minimum=0
    )  # fmt: skip
    own_key_days_max: int = setting(
        90, "Days after which a key that somebody made for themselves ends, at the latest.", group="own keys", minimum=1
    )
