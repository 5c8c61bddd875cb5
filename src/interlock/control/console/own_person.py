"""The account of somebody who signed in at an identity provider, so that a key of the console's may belong to it.

It is the principal that their bearer tokens stand for: the same id, the teams that their groups give them, and so the
same policies, budgets and records. Nobody declares it: it is made when its person first calls a model here, follows
their groups with each sign-in, and is left out of exports and plans. Its keys are those of console sessions only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from interlock.control.validate import NAME
from interlock.errors import Denied, NotFound
from interlock.storage import issuers, principals, teams
from interlock.types.identity import BY_TOKEN, Principal

if TYPE_CHECKING:
    from interlock.control.services.base import Tx
    from interlock.storage.console import Session
    from interlock.types.identity import DataClass, Issuer

READABLE_MAX = 60
"""Characters of a subject that are kept in a name of its own."""


def own_person(tx: Tx, session: Session) -> DataClass:
    """See to it that the person of this session has an account; the data class of their calls. Raises Denied when the
    account is switched off, NotFound when the provider is trusted no longer."""
    found = issuers.get(tx.conn, session.issuer_id)
    if found is None or found.value.tenant_id != session.tenant_id:
        raise NotFound("the identity provider is trusted no longer")
    issuer = found.value
    member_of = teams_of(tx, issuer, session.groups)
    stored = principals.get(tx.conn, session.principal_id)
    if stored is None:
        made = Principal(session.principal_id, issuer.tenant_id, issuer.kind, _name(tx, session), member_of)
        principals.insert(tx.conn, made, tx.by)
    elif not stored.value.active or stored.value.tenant_id != issuer.tenant_id:
        raise Denied("your account here is switched off", code="inactive_principal")
    elif stored.value.team_ids != member_of:
        principals.update(tx.conn, msgspec.structs.replace(stored.value, team_ids=member_of), tx.by)
    return issuer.data_class


def teams_of(tx: Tx, issuer: Issuer, groups: list[str]) -> tuple[str, ...]:
    """Ids of the teams that groups give, in the order of the issuer's mapping, as bearer tokens have them; those that
    are still there."""
    wanted = dict.fromkeys(team for group, team in issuer.group_teams.items() if group in groups)
    return tuple(
        each for each in wanted if (row := teams.get(tx.conn, each)) and row.value.tenant_id == issuer.tenant_id
    )


def _name(tx: Tx, session: Session) -> str:
    """The subject; where that is no name here, or a declared principal has it, a name of its own beside it.

    INVARIANT: nobody becomes a declared principal by what a provider calls them.
    """
    name = session.name
    if NAME.fullmatch(name) and principals.by_name(tx.conn, session.tenant_id, name) is None:
        return name
    readable = re.sub(r"[^A-Za-z0-9._@+-]", "-", name).strip("._@+-")[:READABLE_MAX].rstrip("._@+-")
    return f"{readable}.{session.principal_id.removeprefix(BY_TOKEN)}".lstrip(".")
