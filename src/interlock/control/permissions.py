"""What an administrator may do: one table from action to the least role that may, and why.

Roles are ordered (owner > admin > auditor > developer > viewer); a role may do all that a weaker one may. A binding
counts in its tenant, or everywhere when it is a platform binding. Actions on the installation itself (tenants, platform
sources, platform-wide policies) need a platform binding. Nobody grants more than they hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from interlock.errors import Denied
from interlock.types.identity import AdminRole

STRENGTH = {role: len(AdminRole) - place for place, role in enumerate(AdminRole)}
"""owner 6 ... viewer 2, payload_reader 1: it allows nothing by itself."""


class Action(StrEnum):
    """What the admin API can be asked to do, by the thing it is done to."""

    tenant_read = "tenant.read"
    tenant_create = "tenant.create"
    tenant_update = "tenant.update"
    tenant_delete = "tenant.delete"
    team_read = "team.read"
    team_write = "team.write"
    principal_read = "principal.read"
    principal_write = "principal.write"
    key_read = "key.read"
    key_write = "key.write"
    key_rotate_own = "key.rotate_own"
    key_write_own = "key.write_own"
    policy_read = "policy.read"
    policy_write = "policy.write"
    policy_history = "policy.history"
    policy_draft = "policy.draft"
    policy_approve = "policy.approve"
    policy_activate = "policy.activate"
    policy_rule = "policy.rule"
    source_read = "source.read"
    source_write = "source.write"
    source_operate = "source.operate"
    alias_read = "alias.read"
    alias_write = "alias.write"
    budget_read = "budget.read"
    budget_write = "budget.write"
    quota_read = "quota.read"
    quota_ask = "quota.ask"
    issuer_read = "issuer.read"
    issuer_write = "issuer.write"
    role_read = "role.read"
    role_write = "role.write"
    change_read = "change.read"
    snapshot_read = "snapshot.read"
    system_diagnose = "system.diagnose"
    config_export = "config.export"
    config_plan = "config.plan"
    config_apply = "config.apply"
    explain = "explain"
    ledger_read = "ledger.read"
    ledger_content = "ledger.content"
    ledger_erase = "ledger.erase"
    ledger_retention = "ledger.retention"
    ledger_hold = "ledger.hold"
    ledger_hold_release = "ledger.hold_release"
    ledger_rotate_key = "ledger.rotate_key"
    ledger_retire_node = "ledger.retire_node"
    usage_read = "usage.read"
    alert_read = "alert.read"
    alert_write = "alert.write"
    router_read = "router.read"
    router_write = "router.write"
    router_share = "router.share"
    playground_use = "playground.use"


class Rule(msgspec.Struct, frozen=True):
    """The least role that may do an action, whether only a platform binding counts, the reason for it, and a second
    role that must be held besides."""

    least: AdminRole
    platform_only: bool
    why: str
    grant: AdminRole | None = None


def _rule(least: AdminRole, why: str, *, platform_only: bool = False, grant: AdminRole | None = None) -> Rule:
    return Rule(least=least, platform_only=platform_only, why=why, grant=grant)


RULES: dict[Action, Rule] = {
    Action.tenant_read: _rule(AdminRole.viewer, "whoever has a role in a tenant may see it"),
    Action.tenant_create: _rule(AdminRole.admin, "a tenant belongs to the installation", platform_only=True),
    Action.tenant_update: _rule(AdminRole.admin, "settings of a tenant are its administrators' part"),
    Action.tenant_delete: _rule(AdminRole.owner, "removing a tenant removes everything in it", platform_only=True),
    Action.team_read: _rule(AdminRole.viewer, "teams are shown to whoever has a role"),
    Action.team_write: _rule(AdminRole.admin, "teams carry limits and policies"),
    Action.principal_read: _rule(AdminRole.viewer, "principals are shown to whoever has a role"),
    Action.principal_write: _rule(AdminRole.admin, "principals carry teams, limits and delegation"),
    Action.key_read: _rule(AdminRole.developer, "which keys exist is for those who work with them"),
    Action.key_write: _rule(AdminRole.admin, "a key acts as its principal"),
    Action.key_rotate_own: _rule(AdminRole.developer, "a developer renews the keys of their own principal"),
    Action.key_write_own: _rule(AdminRole.developer, "a developer makes and ends keys of their own principal"),
    Action.policy_read: _rule(AdminRole.viewer, "rules that bind people may be read by them"),
    Action.policy_write: _rule(AdminRole.admin, "policies decide who may call what"),
    Action.policy_history: _rule(
        AdminRole.auditor, "drafts, versions and reports show what people were and will be kept from"
    ),
    Action.policy_draft: _rule(AdminRole.admin, "a draft is what may come in force"),
    Action.policy_approve: _rule(AdminRole.admin, "a second person answers for what comes in force"),
    Action.policy_activate: _rule(AdminRole.admin, "what is activated decides who may call what"),
    Action.policy_rule: _rule(AdminRole.owner, "whether one person alone may change policies: an owner answers for it"),
    Action.source_read: _rule(AdminRole.viewer, "sources are shown without their credentials"),
    Action.source_write: _rule(
        AdminRole.admin, "a source names files, secrets and addresses of our own machines", platform_only=True
    ),
    Action.source_operate: _rule(AdminRole.admin, "draining a source moves traffic to others"),
    Action.alias_read: _rule(AdminRole.viewer, "aliases are names that callers use"),
    Action.alias_write: _rule(AdminRole.admin, "an alias decides which model answers"),
    Action.budget_read: _rule(AdminRole.viewer, "who builds has to know what may be used, and how much is left"),
    Action.budget_write: _rule(AdminRole.admin, "a budget decides who is refused"),
    Action.quota_read: _rule(AdminRole.viewer, "who wants more of what is everybody's concern who shares it"),
    Action.quota_ask: _rule(AdminRole.developer, "who builds knows first when something runs out"),
    Action.issuer_read: _rule(AdminRole.auditor, "issuers say whose word is believed"),
    Action.issuer_write: _rule(AdminRole.owner, "an issuer can vouch for anyone in the tenant"),
    Action.role_read: _rule(AdminRole.auditor, "who administers is an auditor's question"),
    Action.role_write: _rule(AdminRole.admin, "roles are granted by administrators, up to their own"),
    Action.change_read: _rule(AdminRole.auditor, "the list of changes is the auditor's"),
    Action.snapshot_read: _rule(
        AdminRole.viewer, "which version each node runs concerns the installation", platform_only=True
    ),
    Action.system_diagnose: _rule(
        AdminRole.auditor, "what is weak in the installation is for those who look after it", platform_only=True
    ),
    Action.config_export: _rule(AdminRole.auditor, "an export shows the whole configuration, roles included"),
    Action.config_plan: _rule(AdminRole.auditor, "a plan compares against the whole configuration"),
    Action.config_apply: _rule(AdminRole.admin, "applying writes whatever the document says"),
    Action.explain: _rule(AdminRole.developer, "asking why a call is allowed helps those who build"),
    Action.ledger_read: _rule(AdminRole.auditor, "what was done, by whom and at what cost is the auditor's"),
    Action.ledger_content: _rule(
        AdminRole.auditor, "what people asked and were told is shown by a second grant", grant=AdminRole.payload_reader
    ),
    Action.ledger_erase: _rule(AdminRole.owner, "what is erased is gone: an owner answers for it"),
    Action.ledger_retention: _rule(AdminRole.owner, "a shorter time destroys what is older: an owner answers for it"),
    Action.ledger_hold: _rule(AdminRole.admin, "a hold destroys nothing, and may have to be quick"),
    Action.ledger_hold_release: _rule(AdminRole.owner, "what is released may be destroyed: an owner answers for it"),
    Action.ledger_rotate_key: _rule(
        AdminRole.owner, "whose signature proves the ledger concerns the installation", platform_only=True
    ),
    Action.ledger_retire_node: _rule(
        AdminRole.owner, "giving up what a node has not shipped concerns every tenant", platform_only=True
    ),
    Action.usage_read: _rule(AdminRole.auditor, "who used and spent what is for those who account for it"),
    Action.alert_read: _rule(AdminRole.auditor, "what fires shows what is used, denied and failing"),
    Action.alert_write: _rule(AdminRole.admin, "a rule decides who is told, and a channel where things are sent"),
    Action.router_read: _rule(AdminRole.auditor, "what was learned of answers is learned of who asked and judged them"),
    Action.router_write: _rule(AdminRole.admin, "what is said of a model, or forgotten, decides which one answers"),
    Action.router_share: _rule(AdminRole.owner, "figures of a tenant's answers leave it: an owner answers for it"),
    Action.playground_use: _rule(AdminRole.developer, "who builds tries models out, as themselves and as governed"),
}


class Binding(msgspec.Struct, frozen=True):
    """A role held in a tenant, or over the whole installation when `tenant_id` is None."""

    role: AdminRole
    tenant_id: str | None


class Verdict(msgspec.Struct, frozen=True):
    """Whether an action is allowed, and one sentence that names the rule and the deciding binding."""

    allowed: bool
    words: str


def decide(bindings: Iterable[Binding], action: Action, tenant_id: str | None) -> Verdict:
    """May someone with these bindings do `action` in this tenant (None: to the installation as a whole)?"""
    rule = RULES[action]
    held = tuple(bindings)
    place = "the platform" if rule.platform_only or tenant_id is None else f"tenant {tenant_id}"
    counting = [
        b for b in held if b.tenant_id is None or (not rule.platform_only and tenant_id == b.tenant_id is not None)
    ]
    best = max(counting, key=lambda b: STRENGTH[b.role], default=None)
    if best is not None and STRENGTH[best.role] >= STRENGTH[rule.least]:
        if rule.grant is not None and not any(b.role is rule.grant for b in counting):
            return Verdict(False, f"{action} needs role {rule.grant} besides {rule.least} on {place}: {rule.why}")
        where = "the platform" if best.tenant_id is None else f"tenant {best.tenant_id}"
        return Verdict(True, f"role {best.role} on {where} may {action}, which needs {rule.least}: {rule.why}")
    have = f"the strongest held there is {best.role}" if best else "none is held there"
    return Verdict(False, f"{action} needs role {rule.least} or stronger on {place}, {have}: {rule.why}")


def require(bindings: Iterable[Binding], action: Action, tenant_id: str | None) -> None:
    """Raise Denied with the explanation unless `decide` allows it."""
    verdict = decide(bindings, action, tenant_id)
    if not verdict.allowed:
        raise Denied(verdict.words, code="admin_denied")


def may_grant(bindings: Iterable[Binding], role: AdminRole, tenant_id: str | None) -> Verdict:
    """May someone with these bindings give (or take, or act with) `role` in this tenant or on the platform (None)?

    INVARIANT: nobody gains a stronger role than the one they hold in the same place, whatever the way.
    """
    counting = [b for b in bindings if b.tenant_id is None or b.tenant_id == tenant_id]
    best = max(counting, key=lambda b: STRENGTH[b.role], default=None)
    place = "the platform" if tenant_id is None else f"tenant {tenant_id}"
    if best is not None and STRENGTH[best.role] >= STRENGTH[role]:
        return Verdict(True, f"role {best.role} covers {role} on {place}")
    have = f"the strongest held there is {best.role}" if best else "none is held there"
    return Verdict(False, f"only {role} or stronger on {place} may hand on {role}; {have}")


def require_grant(bindings: Iterable[Binding], role: AdminRole, tenant_id: str | None) -> None:
    """Raise Denied with the explanation unless `may_grant` allows it."""
    verdict = may_grant(bindings, role, tenant_id)
    if not verdict.allowed:
        raise Denied(verdict.words, code="admin_denied")
