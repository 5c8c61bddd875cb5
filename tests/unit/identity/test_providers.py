"""Tokens as identity providers document them hold under the entries that docs/howto-identity-providers.md shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.control.parse import parse
from tests.unit.identity.issuers import NAME, RSA, issuer, token
from tests.unit.identity.test_tokens import Bench

_HOWTO = Path(__file__).parents[3] / "docs" / "howto-identity-providers.md"
_ENTRA = "https://login.microsoftonline.com/<directory id>/v2.0"
_OKTA = "https://<org>.okta.com/oauth2/default"
_TOKENS: dict[str, tuple[dict[str, Any], str]] = {
    _ENTRA: (
        {
            "aud": "<application id>",
            "sub": "AAAAA-pairwise",
            "oid": "0f0f0f0f-1111-2222-3333-444444444444",
            "tid": "<directory id>",
            "ver": "2.0",
            "scp": "call",
            "groups": ["1f0c1c5e-0000-0000-0000-000000000001", "another"],
        },
        "0f0f0f0f-1111-2222-3333-444444444444",
    ),
    _OKTA: (
        {
            "aud": "api://default",
            "sub": "alice@acme.example",
            "cid": "0oa1",
            "scp": ["openid"],
            "groups": ["llm-research"],
        },
        "alice@acme.example",
    ),
    NAME: (
        {
            "aud": ["interlock", "account"],
            "sub": "d3b07384-keycloak",
            "azp": "app",
            "realm_access": {"roles": ["default-roles-acme"]},
            "groups": ["research"],
        },
        "d3b07384-keycloak",
    ),
}


def _declared_issuers() -> dict[str, Any]:
    blocks = re.findall(r"```yaml\n(.*?)```", _HOWTO.read_text(encoding="utf-8"), re.DOTALL)
    found = {}
    for block in blocks:
        document, _ = parse([(_HOWTO.name, block)])
        for tenant in document.tenants if not isinstance(document.tenants, msgspec.UnsetType) else ():
            for spec in tenant.issuers if not isinstance(tenant.issuers, msgspec.UnsetType) else ():
                found[spec.issuer] = spec
    return found


def test_every_provider_of_the_page_has_a_token_here() -> None:
    assert set(_declared_issuers()) == set(_TOKENS)


@pytest.mark.parametrize("name", sorted(_TOKENS))
def test_tokens_of_providers_hold_under_the_documented_entries(name: str, tmp_path: Path) -> None:
    spec = _declared_issuers()[name]
    claims_of, subject = _TOKENS[name]
    entry = issuer(
        issuer=spec.issuer,
        audience=spec.audience,
        algorithms=tuple(spec.algorithms),
        subject_claim=spec.subject_claim,
        groups_claim=spec.groups_claim,
        group_teams={group: f"team_{team}" for group, team in spec.group_teams.items()},
    )
    bench = Bench(tmp_path, entry)
    bench.publish(RSA)
    caller = bench.verifier.verify(token(RSA, iss=spec.issuer, **claims_of))
    assert caller.principal.name == subject and caller.principal.team_ids == ("team_research",)
