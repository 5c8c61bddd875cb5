"""People of acme that a test needs, with a password, and gone afterwards."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from tests.e2e.stack import Stack

PASSWORD = secrets.token_urlsafe(16)


@contextlib.contextmanager
def person(demo: Stack, name: str, *roles: str) -> Iterator[str]:
    """A user of acme's research with these roles: what they sign in as."""
    acme = "/tenants/acme"
    principal = {"name": name, "kind": "user", "teams": ["research"]}
    assert demo.admin("POST", f"{acme}/principals", principal).status == 201
    for role in roles:
        assert demo.admin("POST", f"{acme}/roles", {"principal": name, "role": role}).status == 201
    answer = demo.admin("POST", f"{acme}/principals/{name}/password", {"password": PASSWORD})
    assert answer.status == 200, answer
    yield f"acme/{name}"
    for role in roles:
        assert demo.admin("DELETE", f"{acme}/roles/{name}:{role}").status == 200
    demo.admin("PUT", f"{acme}/principals/{name}", {**principal, "active": False})
