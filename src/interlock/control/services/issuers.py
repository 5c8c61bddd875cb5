"""JWT issuers that a tenant trusts. One is called by its `iss` value; a tenant has at most one entry for each."""

from __future__ import annotations

import msgspec

from interlock.control.documents import IssuerSpec, SignInSpec, restate
from interlock.control.services.base import Names, Tx, data_class_name, missing
from interlock.errors import Conflict
from interlock.storage import issuers
from interlock.storage.table import Stored
from interlock.types.identity import DataClass, Issuer, SignIn

_PER_TENANT_MAX = 200


def spec_of(issuer: Issuer, names: Names) -> IssuerSpec:
    """The declared form of an issuer."""
    return IssuerSpec(
        issuer=issuer.issuer,
        audience=issuer.audience,
        jwks_url=issuer.jwks_url,
        algorithms=issuer.algorithms,
        subject_claim=issuer.subject_claim,
        groups_claim=issuer.groups_claim,
        group_teams={group: names.of(team) for group, team in issuer.group_teams.items()},
        kind=issuer.kind,
        data_class=data_class_name(issuer.data_class),
        group_roles=dict(issuer.group_roles),
        login=restate(issuer.login, SignInSpec),
    )


def of_tenant(tx: Tx, tenant_id: str) -> list[Stored[Issuer]]:
    """All issuers of a tenant; there are few."""
    return issuers.page(tx.conn, tenant_id=tenant_id, limit=_PER_TENANT_MAX)


def find(tx: Tx, tenant_id: str, name: str) -> Stored[Issuer]:
    """The issuer with that `iss` value, or of that id. Raises NotFound."""
    for stored in of_tenant(tx, tenant_id):
        if name in (stored.value.issuer, stored.value.id):
            return stored
    raise missing("issuer", name)


def create(tx: Tx, tenant_id: str, spec: IssuerSpec) -> Stored[Issuer]:
    """Trust a new issuer. Raises Conflict when it is trusted already, here or (same audience) by another tenant."""
    known = of_tenant(tx, tenant_id)
    if any(stored.value.issuer == spec.issuer for stored in known):
        raise Conflict(f"there is an issuer {spec.issuer!r} already")
    if len(known) >= _PER_TENANT_MAX:
        raise Conflict(f"a tenant has at most {_PER_TENANT_MAX} issuers")
    empty = Issuer(
        id=tx.tools.new_id("issuer"), tenant_id=tenant_id, issuer=spec.issuer, audience=spec.audience, jwks_url=""
    )
    return issuers.insert(tx.conn, _with(tx, empty, spec), tx.by)


def update(tx: Tx, tenant_id: str, spec: IssuerSpec, revision: int | None = None) -> Stored[Issuer]:
    """Everything but the `iss` value. Raises NotFound, Conflict."""
    stored = find(tx, tenant_id, spec.issuer)
    return issuers.update(tx.conn, _with(tx, stored.value, spec), tx.by, revision=revision)


def delete(tx: Tx, tenant_id: str, name: str, revision: int | None = None) -> None:
    """Its tokens are refused with the next snapshot. Raises NotFound, Conflict."""
    issuers.delete(tx.conn, find(tx, tenant_id, name).value.id, tx.by, revision=revision)


def _with(tx: Tx, issuer: Issuer, spec: IssuerSpec) -> Issuer:
    teams = {group: tx.names.team(issuer.tenant_id, team) for group, team in spec.group_teams.items()}
    return msgspec.structs.replace(
        issuer,
        audience=spec.audience,
        jwks_url=spec.jwks_url,
        algorithms=spec.algorithms,
        subject_claim=spec.subject_claim,
        groups_claim=spec.groups_claim,
        group_teams=teams,
        kind=spec.kind,
        data_class=DataClass[spec.data_class],
        group_roles=dict(spec.group_roles),
        login=restate(spec.login, SignIn),
    )
