"""Leaves of calls, as the ledger has them."""

from __future__ import annotations

import json
from typing import Any

NS = 1_000_000_000


def leaf(number: int, at_s: float, **changed: Any) -> bytes:
    """A completed call that was admitted at `at_s` and took 100 ms. Keys such as `who__team` set what is inside."""
    made: dict[str, Any] = {
        "v": 1,
        "tree": "ten_a",
        "kind": "call",
        "at": int(at_s * NS),
        "request": f"req_{number}",
        "who": {"subject": "prn_1", "team": "team_1", "principal": "prn_1"},
        "what": {"model": "m", "alias": "", "mode": "", "stream": False, "class": "", "workload": "interactive"},
        "where": {"name": "local", "model": "m", "attempts": 1},
        "result": {"state": "completed", "code": ""},
        "times": {"first_us": 20_000, "total_us": 100_000},
        "tokens": {"prompt": 10, "cached": 0, "completion": 20, "origin": "engine"},
        "cost": {"nusd": 1_000, "price": "source"},
        "energy": {"uj": 3_000_000, "low_uj": 1_000_000, "high_uj": 6_000_000, "method": "declared"},
    }
    for path, value in changed.items():
        outer, _, inner = path.partition("__")
        if inner:
            made[outer] = {**made[outer], inner: value}
        else:
            made[outer] = value
    return json.dumps(made).encode()


def refusal(number: int, at_s: float) -> bytes:
    """A call that a policy refused."""
    return leaf(
        number,
        at_s,
        kind="refusal",
        where={},
        times={},
        tokens={},
        cost={},
        energy={},
        result={"state": "refused", "code": "policy_denied"},
    )


def measured(number: int, at_s: float, uj: int) -> bytes:
    """What was measured of a call later."""
    return json.dumps(
        {
            "v": 1,
            "tree": "ten_a",
            "kind": "energy",
            "at": int(at_s * NS),
            "request": f"req_{number}",
            "energy": {"uj": uj, "method": "nvml"},
        }
    ).encode()
