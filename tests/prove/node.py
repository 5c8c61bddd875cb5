"""The real node, with the workers of the proofs. A worker that was killed is replaced at once, however often.

(A real node lets a worker that keeps dying young wait for up to five seconds; a proof that kills one every second
would then only measure these pauses.)
"""

from __future__ import annotations

import functools
import sys

from interlock.gateway import node, slots

if __name__ == "__main__":
    slots.LIVED_NS = 0
    node.GatewayNode = functools.partial(  # type: ignore[misc,assignment]
        node.GatewayNode, worker_module="tests.prove.worker"
    )
    sys.exit(node.main())
