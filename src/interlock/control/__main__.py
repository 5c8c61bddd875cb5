"""`python -m interlock.control`: the control process, which is `interlock.control.main` begun sooner.

Importing makes hundreds of thousands of objects that stay; looking among them for garbage, again and again as they
become more, would be an eighth of the processor time until the process is ready.
"""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Entry point of the process. Returns the exit code."""
    gc.disable()
    from interlock.control.main import main as control

    gc.freeze()
    gc.enable()
    return control()


if __name__ == "__main__":
    sys.exit(main())
