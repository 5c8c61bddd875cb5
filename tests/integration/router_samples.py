"""A state of the router, as the learner publishes one: three tasks, two models."""

from __future__ import annotations

from typing import Any

from interlock.storage import learned
from interlock.storage.pool import Store
from interlock.types.learned import ArmWeights, Capability, Profile, Weights

MADE_S = 1_790_000_000
SIGNALS = 22
SHARES = (500_000, 300_000, 200_000)


def surfaces() -> bytes:
    """Task 0: long prompts; task 1: much code and few letters; task 2: nothing that tells."""
    rows = [[0] * SIGNALS for _ in range(3)]
    rows[0][0] = 30
    rows[1][19], rows[1][6] = 40, -20
    return b"".join(int(v).to_bytes(1, "little", signed=True) for row in rows for v in row)


def arm(name: str, means: tuple[int, ...], **origins: int) -> ArmWeights:
    cells = tuple(Capability(m, max(m - 80_000, 0), min(m + 80_000, 1_000_000), 60_000) for m in means)
    return ArmWeights(name, b"", (40_000,) * len(means), cells, 1000, origins)


def weights(version: int = 7, good: int = 900_000, **more: Any) -> Weights:
    """`good`: what model large does of the first task."""
    return Weights(
        version,
        3,
        MADE_S + version,
        35_000,
        50_000,
        bytes(3 * 4),
        SHARES,
        (
            arm("large@2026-01", (good, 850_000, 800_000), feedback=140, validation=40),
            arm("small", (880_000, 400_000, 700_000), feedback=180),
        ),
        (
            Profile("gpu::large", 800, 12_000, 240_000, 21_000, 3_200_000, 41_000_000),
            Profile("gpu::small", 1200, 0, 90_000, 6_000, -1, 7_000_000),
        ),
        1,
        **{"surfaces": surfaces(), **more},
    )


def publish(store: Store, tenant_id: str, state: Weights) -> None:
    """As though nothing later had been in force."""
    with store.tenant(tenant_id) as conn:
        before = learned.current(conn, tenant_id)
        if before is not None and before.version >= state.version:
            learned.clear(conn, tenant_id)
        assert learned.publish(conn, tenant_id, state, None)
