"""Make sure that there is a browser for the console's tests: Debian's chromium, installed when that is possible here.

Says plainly when there is none: the tests that need it are skipped then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PACKAGES = ("chromium", "fonts-liberation", "fonts-noto-core")


def main() -> int:
    """Never fails: a machine without a browser runs all other tests."""
    if shutil.which("chromium"):
        return 0
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print("browser: no chromium, and it cannot be installed here (apt-get as root); its tests are skipped")
        return 0
    print("browser: installing Debian's chromium for the console's tests", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]
    for command in (install, ["apt-get", "update", "-q"], install):
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        if shutil.which("chromium"):
            return 0
    words = done.stderr.decode(errors="replace").strip().splitlines()
    print(
        f"browser: chromium could not be installed ({words[-1] if words else 'no reason given'}); its tests are skipped"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
