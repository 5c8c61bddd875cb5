"""Carrying out changes: every write of the configuration goes through here, one thing or a whole document.

    read the document -> load what is stored -> plan -> check -> look at new sources -> one transaction: load, plan and
    check again under the write lock, ask for permission change by change, write

Nothing is half-applied: the transaction holds all of it. Sources are asked for their models before, outside of it, so
that a slow engine holds no lock; one that does not answer is stored all the same, with its error told.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec

from interlock.control import state
from interlock.control.documents import Document, IssuerSpec, KeySpec, PolicySpec, RoleSpec, SourceSpec, lean, section
from interlock.control.identity import WRITE_LOCK, Actor, reach_of, roles_of, tenant_of
from interlock.control.judging import require_judges, require_planned_judges
from interlock.control.parse import Places, parse, show
from interlock.control.permissions import Action, require, require_grant
from interlock.control.plan import AnySpec, Change, Entry, Plan, Ref, flatten, plan, result, sections
from interlock.control.services import (
    alert_rules,
    aliases,
    budgets,
    issuers,
    keys,
    policies,
    principals,
    roles,
    sources,
    teams,
    tenants,
)
from interlock.control.services.base import Tools, Tx
from interlock.control.services.sources import Discover, Found
from interlock.control.validate import Fault, check, form, references
from interlock.errors import BadRequest, ConfigError, Conflict, Denied, NotFound
from interlock.sources.credentials import check_references
from interlock.storage import changes, policy_versions
from interlock.storage import sources as stored_sources
from interlock.storage import tenants as stored_tenants
from interlock.storage.changes import Author
from interlock.storage.policy_drafts import Approval
from interlock.storage.pool import Store
from interlock.storage.tenants import PLATFORM_TENANT
from interlock.types.identity import Scope

_LOOKS_AT_ONCE = 8
_TURN_S = 5.0
_ONE_BY_ONE_MAX = 500

WRITES: dict[str, Action] = {
    "team": Action.team_write,
    "principal": Action.principal_write,
    "key": Action.key_write,
    "policy": Action.policy_write,
    "source": Action.source_write,
    "alias": Action.alias_write,
    "issuer": Action.issuer_write,
    "role": Action.role_write,
    "budget": Action.budget_write,
    "alert": Action.alert_write,
}
"""The permission that a change of each kind needs; a tenant's own depends on the operation."""
_SUBJECTS = {"team", "principal", "key", "model", "shadow", "judge"}
"""Fields of a budget that is not on its tenant as a whole."""

DECIDING = ("tenant", "team", "principal", "policy", "source", "alias")
"""Kinds that decisions depend on."""

SERVICES = {
    "tenant": tenants,
    "team": teams,
    "principal": principals,
    "key": keys,
    "policy": policies,
    "source": sources,
    "alias": aliases,
    "issuer": issuers,
    "role": roles,
    "budget": budgets,
    "alert": alert_rules,
}


class Applied(msgspec.Struct, frozen=True):
    """What was done. `keys`: new keys by tenant and name, shown this once. `discovery`: errors by source name."""

    plan: Plan
    keys: dict[str, dict[str, str]] = {}
    discovery: dict[str, str] = {}


class Origin(msgspec.Struct, frozen=True):
    """How a set of policies came about; see `policy_versions.Version`."""

    kind: str = "change"
    of_number: int | None = None
    approvals: tuple[Approval, ...] = ()


class Reason(msgspec.Struct, frozen=True):
    """Why a change is made, and the request that asked for it."""

    text: str
    request_id: str = ""


class Configurator:
    """Plans and applies documents, and changes single entries. Threads may share one."""

    def __init__(self, store: Store, tools: Tools, discover: Discover) -> None:
        self._store = store
        self._tools = tools
        self._discover = discover
        # A transaction here may need a second connection for a look; one at a time cannot starve the pool.
        self._turn = threading.Lock()

    # -- documents

    def plan(self, actor: Actor, texts: Iterable[tuple[str, str]]) -> Plan:
        """What applying these (file name, text) pairs would do. Raises ConfigError(s), Denied, StoreError."""
        document, places = parse(texts)
        with self._reading(actor, document) as (tx, outside):
            steps = _prepare(tx, document, places, outside)
            self._allow(actor, tx, steps, Action.config_plan)
            require_planned_judges(self._store, tx, steps)
            return steps

    def apply(self, actor: Actor, texts: Iterable[tuple[str, str]], reason: Reason) -> Applied:
        """Apply these (file name, text) pairs, all or nothing. Raises ConfigError(s), Denied, Conflict, StoreError."""
        document, places = parse(texts)
        with self._reading(actor, document) as (tx, outside):
            steps = _prepare(tx, document, places, outside)
            self._allow(actor, tx, steps, Action.config_apply)
        if not steps.changes:
            return Applied(steps)
        declared = flatten(document, places)
        found = self._look(steps, declared)
        with self._writing(actor, document, reason) as (tx, outside):
            steps = _prepare(tx, document, places, outside)
            self._allow(actor, tx, steps, Action.config_apply)
            made = execute(tx, steps, declared, found)
            require_judges(self._store, tx, steps)
        told = {name: f.error for name, f in found.items() if f.error}
        return Applied(steps, made, told)

    def export(self, actor: Actor, tenant: str = "") -> Document:
        """The stored configuration as a document: of one tenant, or all that the actor may see."""
        with self._reading(actor, Document(), tenant) as (tx, _):
            place = tx.names.tenant(tenant) or None if tenant else None
            require(actor.bindings, Action.config_export, place or (None if actor.platform else _only_place(actor)))
            entries = state.load(tx, {tenant} if tenant else None).entries
        if tenant:
            entries = {ref: e for ref, e in entries.items() if ref.tenant == tenant}
        return state.document(entries)

    @contextmanager
    def supposed(self, actor: Actor, texts: Iterable[tuple[str, str]]) -> Iterator[tuple[Any, Plan]]:
        """(connection, plan): a transaction of the platform's in which these files are applied, as far as decisions
        depend on them. It is always undone. Sources are not asked: what is declared of them counts, and what is known.

        Permission is that of `plan`. Raises ConfigError(s), Denied, Conflict, StoreError.
        """
        document, places = parse(texts)
        with self._reading(actor, document) as (tx, outside):
            steps = _prepare(tx, document, places, outside)
            self._allow(actor, tx, steps, Action.config_plan)
        steps = Plan(tuple(change for change in steps.changes if change.kind in DECIDING))
        declared = flatten(document, places)
        unseen = {c.name: Found(error="not looked at") for c in steps.changes if c.kind == "source"}
        by = Author(actor.principal_id, actor.name, "what if", self._tools.now())
        with self._in_turn(), self._store.platform() as conn, conn.transaction(force_rollback=True):
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK,))
            execute(Tx(conn, by, self._tools), steps, declared, unseen)
            yield conn, steps

    # -- one thing

    def put(
        self,
        actor: Actor,
        ref: Ref,
        spec: AnySpec,
        reason: Reason,
        *,
        revision: int | None = None,
        new: bool | None = None,
    ) -> Applied:
        """Make an entry what `spec` says. `new` True: it must not exist yet; False: it must.

        Raises BadRequest, Conflict, Denied, NotFound, StoreError.
        """
        entry = Entry(spec)
        _sound(ref, spec)
        found: dict[str, Found] = {}
        if isinstance(spec, SourceSpec):
            require(actor.bindings, Action.source_write, None)
            found = {spec.name: self._discover(sources.probe(spec))}
        with self._changing(actor, ref, reason) as (tx, outside):
            # before anything is looked up, so that an error tells nothing to who may not write here
            wish = Change("create" if new else "update", ref.kind, ref.tenant, ref.name)
            require(actor.bindings, _action(wish), _place(tx, wish))
            stored = state.load_some(tx, state.mentioned(ref, spec))
            known = {**outside, **stored.entries}
            exists = ref in known or ref in stored.closed_keys
            if new is True and exists:
                closed = stored.closed_keys.get(ref)
                raise Conflict(f"there is a {ref} already{', ' + closed if closed else ''}", code="already_exists")
            if new is False and ref not in known:
                closed = stored.closed_keys.get(ref)
                raise Conflict(f"{ref} is {closed}") if closed else NotFound(f"there is no {ref}", param=ref.name)
            _refuse(references(ref, entry, {**known, ref: entry}))
            steps = plan(known, {ref: entry}, closed_keys=stored.closed_keys)
            self._allow(actor, tx, steps, None)
            made = execute(tx, steps, {ref: entry}, found, revision)
            require_judges(self._store, tx, steps)
            _keep_an_owner(tx, steps)
        return Applied(steps, made, {n: f.error for n, f in found.items() if f.error})

    def remove(self, actor: Actor, ref: Ref, reason: Reason, *, revision: int | None = None) -> Applied:
        """Delete an entry (a key: revoke it). Raises NotFound, Conflict, Denied, StoreError."""
        with self._changing(actor, ref, reason) as (tx, _):
            wish = Change("delete", ref.kind, ref.tenant, ref.name)
            require(actor.bindings, _action(wish), _place(tx, wish))
            stored = state.load_some(tx, {ref}).entries
            if ref not in stored:
                raise NotFound(f"there is no {ref}", param=ref.name)
            before = lean(stored[ref].spec)
            steps = Plan((Change("delete", ref.kind, ref.tenant, ref.name, before=before),))
            self._allow(actor, tx, steps, None)
            execute(tx, steps, {}, {}, revision)
            _keep_an_owner(tx, steps)
        return Applied(steps)

    @contextmanager
    def acting(self, actor: Actor, ref: Ref, action: Action, reason: Reason) -> Iterator[Tx]:
        """A write transaction where `ref` is, for what is neither put nor remove (rotate, revoke, drain)."""
        with self._changing(actor, ref, reason) as (tx, _):
            place = tx.names.tenant(ref.tenant) or None
            require(actor.bindings, action, place)
            yield tx

    @contextmanager
    def changing(self, actor: Actor, ref: Ref, reason: Reason) -> Iterator[Tx]:
        """A write transaction where `ref` is; the caller asks for permission itself, once it knows what it found."""
        with self._changing(actor, ref, reason) as (tx, _):
            yield tx

    def allow_key(self, actor: Actor, principal_id: str, scopes: Iterable[str]) -> None:
        """Raise Denied when a key of scope admin would act with a stronger role than the actor holds."""
        if Scope.admin.value in scopes:
            for binding in roles_of(self._store, principal_id):
                require_grant(actor.bindings, binding.role, binding.tenant_id or None)

    def look(self, spec: SourceSpec) -> Found:
        """Ask a source for its models now."""
        return self._discover(sources.probe(spec))

    def examine(self, actor: Actor, spec: SourceSpec) -> Found:
        """Ask a source that is not registered yet for its models; that it was asked is on record.

        Raises BadRequest and ConfigError for what could not be registered, Conflict (the name is taken), Denied.
        """
        require(actor.bindings, Action.source_write, None)
        ref, probe = Ref("source", "", spec.name), sources.probe(spec)
        _sound(ref, spec)
        check_references(probe, self._tools.settings)
        with self._changing(actor, ref, Reason("a look at a source before it is registered")) as (tx, _):
            if stored_sources.named(tx.conn, spec.name) is not None:
                raise Conflict(f"there is a {ref} already", code="already_exists")
            # INVARIANT: recorded first, as its credential leaves with the question
            changes.record(tx.conn, changes.Change("", "source.look", "source", spec.name, None, lean(spec)), tx.by)
        return self._discover(probe)

    # -- inside

    def _allow(self, actor: Actor, tx: Tx, steps: Plan, whole: Action | None) -> None:
        """Permission for every change of a plan, each by its own rule and in its own place."""
        if whole is not None and not steps.changes:
            require(actor.bindings, whole, None if actor.platform else _only_place(actor))
        for change in steps.changes:
            place = _place(tx, change)
            if whole is not None:
                require(actor.bindings, whole, place)
            if whole is Action.config_plan:
                continue
            require(actor.bindings, _action(change), place)
            if change.kind == "tenant" and change.operation == "update":
                before, after = change.before or {}, change.after or {}
                if before.get("retention") != after.get("retention"):
                    require(actor.bindings, Action.ledger_retention, place)
                if before.get("policy_approval") != after.get("policy_approval"):
                    require(actor.bindings, Action.policy_rule, place)
            if change.kind == "tenant" and change.after and _shares(change.before) != _shares(change.after):
                require(actor.bindings, Action.router_share, place)
            if change.kind == "policy":
                _refuse_unapproved(tx, change, steps)
            self._allow_power(actor, tx, change, place)

    def _allow_power(self, actor: Actor, tx: Tx, change: Change, place: str | None) -> None:
        """INVARIANT: no change gives anybody a stronger administrative role than the actor's own, or takes one away."""
        fields = change.after or change.before or {}
        if change.kind == "role":
            spec = msgspec.convert(fields, RoleSpec)
            require_grant(actor.bindings, spec.role, place)
        elif change.kind == "key" and change.operation != "delete":
            spec_key = msgspec.convert(fields, KeySpec)
            try:
                principal_id = tx.names.principal(place or "", spec_key.principal)
            except NotFound:
                return  # made in the same plan: what roles it gets is asked there
            self.allow_key(actor, principal_id, [s.value for s in spec_key.scopes])
        elif change.kind == "principal" and change.operation != "create":
            principal_id = tx.names.principal(place or "", change.name)
            for binding in roles_of(self._store, principal_id):
                require_grant(actor.bindings, binding.role, binding.tenant_id or None)
        elif change.kind == "issuer":
            # Its word makes administrators: whoever changes where its keys are could sign as any of them.
            for spec_issuer in (msgspec.convert(f, IssuerSpec) for f in (change.before, change.after) if f):
                for role in spec_issuer.group_roles.values():
                    require_grant(actor.bindings, role, reach_of(place or ""))
                if spec_issuer.login is not None and reach_of(place or "") is None:
                    # of the platform: its secret may be any file or variable of this machine
                    require(actor.bindings, Action.source_write, None)

    def _look(self, steps: Plan, declared: Mapping[Ref, Entry]) -> dict[str, Found]:
        chosen = [declared[c.ref].spec for c in steps.changes if c.kind == "source" and c.operation != "delete"]
        probes = [sources.probe(spec) for spec in chosen if isinstance(spec, SourceSpec)]
        if not probes:
            return {}
        with ThreadPoolExecutor(min(_LOOKS_AT_ONCE, len(probes))) as pool:
            return dict(zip([p.name for p in probes], pool.map(self._discover, probes), strict=True))

    def _author(self, actor: Actor, reason: Reason) -> Author:
        if not reason.text.strip():
            raise BadRequest(
                "a change needs a reason: header X-Interlock-Reason, or `reason` in the body", param="reason"
            )
        return Author(actor.principal_id, actor.name, reason.text, self._tools.now(), reason.request_id)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=_TURN_S):
            raise Conflict("other changes are being made; try again", code="locked")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _reading(self, actor: Actor, document: Document, tenant: str = "") -> Iterator[tuple[Tx, dict[Ref, Entry]]]:
        by = Author(actor.principal_id, actor.name, "", self._tools.now())
        with self._in_turn(), self._where(actor, document, tenant) as (conn, outside):
            yield Tx(conn, by, self._tools), outside

    @contextmanager
    def _writing(self, actor: Actor, document: Document, reason: Reason) -> Iterator[tuple[Tx, dict[Ref, Entry]]]:
        by = self._author(actor, reason)
        with self._in_turn(), self._where(actor, document) as (conn, outside):
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK,))
            yield Tx(conn, by, self._tools), outside

    @contextmanager
    def _changing(self, actor: Actor, ref: Ref, reason: Reason) -> Iterator[tuple[Tx, dict[Ref, Entry]]]:
        by = self._author(actor, reason)
        tenant_id = ""
        if ref.tenant and ref.kind != "tenant":
            tenant_id = tenant_of(self._store, actor, ref.tenant)
        if tenant_id in ("", PLATFORM_TENANT):
            with self._in_turn(), self._store.platform() as conn:
                conn.execute("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK,))
                yield Tx(conn, by, self._tools), {}
            return
        outside = self._granted(tenant_id)
        with self._in_turn(), self._store.tenant(tenant_id) as conn:
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK,))
            yield Tx(conn, by, self._tools), outside

    @contextmanager
    def _where(self, actor: Actor, document: Document, tenant: str = "") -> Iterator[tuple[Any, dict[Ref, Entry]]]:
        """The transaction for a document: the platform's for who has a platform role, else the one tenant's."""
        if actor.platform:
            with self._store.platform() as conn:
                yield conn, {}
            return
        names = {t.name for t in section(document.tenants)} | ({tenant} if tenant else set())
        places = {tenant_of(self._store, actor, name) for name in names} or {_only_place(actor)}
        if len(places) != 1:
            raise Denied("a document for several tenants needs a platform role", code="admin_denied")
        tenant_id = places.pop()
        outside = self._granted(tenant_id)
        with self._store.tenant(tenant_id) as conn:
            yield conn, outside

    def _granted(self, tenant_id: str) -> dict[Ref, Entry]:
        """The platform's sources that this tenant was given: it cannot see them itself, and may refer to them."""
        with self._store.platform() as conn:
            rows = stored_sources.page(conn, tenant_id="", limit=self._tools.settings.sources_max)
        return {
            Ref("source", "", row.value.name): Entry(sources.spec_of(row.value))
            for row in rows
            if "*" in row.value.granted_to or tenant_id in row.value.granted_to
        }


def _only_place(actor: Actor) -> str:
    places = {b.tenant_id for b in actor.bindings if b.tenant_id is not None}
    if len(places) != 1:
        raise Denied("name the tenant: roles are held in several", code="admin_denied")
    return places.pop()


def _prepare(tx: Tx, document: Document, places: Places, outside: Mapping[Ref, Entry]) -> Plan:
    """Flatten, plan and check a document against what is stored. Raises ConfigErrors."""
    declared = flatten(document, places)
    stored = _stored(tx, document, declared)
    known = {**outside, **stored.entries}
    steps = plan(
        known,
        declared,
        prune=document.prune,
        within=sections(document),
        places=places,
        closed_keys=stored.closed_keys,
    )
    deletes = any(change.operation == "delete" for change in steps.changes)
    check(declared, result(known, declared, steps), places, policies.check, deletes=deletes)
    return steps


def _stored(tx: Tx, document: Document, declared: Mapping[Ref, Entry]) -> state.State:
    """What a document is compared with: all of its tenants, or one by one what it names when that is little.

    Only a document that prunes has to see everything: to delete, and to find what would be left without a reference.
    """
    if not document.prune and len(declared) <= _ONE_BY_ONE_MAX:
        return state.load_some(tx, {ref for r, e in declared.items() for ref in state.mentioned(r, e.spec)})
    everything = document.prune and ("tenant", "") in sections(document)
    return state.load(tx, None if everything else {t.name for t in section(document.tenants)})


def _sound(ref: Ref, spec: AnySpec) -> None:
    """Check one entry in itself. Raises BadRequest, ConfigError."""
    _refuse(form(ref, spec))
    if isinstance(spec, PolicySpec):
        policies.check(spec)


def _refuse(faults: Iterable[Fault]) -> None:
    for path, words in faults:
        field = show(path)
        raise BadRequest(f"{field}: {words}" if field else words, param=field or None)


def _action(change: Change) -> Action:
    if change.kind == "tenant":
        return {
            "create": Action.tenant_create,
            "update": Action.tenant_update,
            "delete": Action.tenant_delete,
        }[change.operation]
    return WRITES[change.kind]


def _place(tx: Tx, change: Change) -> str | None:
    """The tenant in which a change happens, by id; None for the platform. A tenant not made yet is in the platform.

    INVARIANT: what a tenant may use as a whole is set by the platform, not by the tenant's own administrators.
    """
    told = [fields for fields in (change.before, change.after) if fields]
    if change.kind == "budget" and any(not _SUBJECTS & set(fields) for fields in told):
        return None
    if not change.tenant or (change.kind == "tenant" and change.operation == "create"):
        return None
    try:
        return tx.names.tenant(change.tenant)
    except NotFound:
        return None


def execute(
    tx: Tx,
    steps: Plan,
    declared: Mapping[Ref, Entry],
    found: Mapping[str, Found],
    revision: int | None = None,
    origin: Origin = Origin(),
) -> dict[str, dict[str, str]]:
    """Write every change of a plan in its order; policies that changed are a version. Returns new keys by tenant and
    name."""
    made: dict[str, dict[str, str]] = {}
    planned = False
    for change in steps.changes:
        if change.kind == "principal" and not planned:
            planned = True
            _plan_principals(tx, steps)
        tenant_id = "" if change.kind in ("tenant", "source") else tx.names.tenant(change.tenant)
        try:
            secret = _one(tx, change, tenant_id, declared, found, revision)
        except ConfigError as e:
            words = f"{change.place}: {change.ref}: {e.message}" if change.place else e.message
            raise ConfigError(words, param=e.param, code=e.code) from None
        if secret:
            made.setdefault(change.tenant, {})[change.name] = secret
    gone = {c.name for c in steps.changes if c.kind == "tenant" and c.operation == "delete"}
    for tenant in sorted({c.tenant for c in steps.changes if c.kind == "policy"} - gone):
        policy_versions.add(tx.conn, tx.names.tenant(tenant), tx.by, origin.kind, origin.of_number, origin.approvals)
    return made


def _shares(fields: Mapping[str, Any] | None) -> bool:
    """Whether a tenant with these fields shares how good models were."""
    return bool((fields or {}).get("learning_shares"))


def needs_second(tx: Tx, tenant_id: str) -> bool:
    """Whether a change of the policies of a tenant ("": of the platform) needs a second person."""
    always = tx.tools.settings.policy_approval != "tenant"
    if always or not tenant_id:
        return always
    found = stored_tenants.get(tx.conn, tenant_id)
    return found is not None and found.value.policy_approval


def _refuse_unapproved(tx: Tx, change: Change, steps: Plan) -> None:
    """INVARIANT: where policies need a second person, no way leads around the draft. What is made or removed together
    with its tenant is the tenant's own beginning or end."""
    if any(c.kind == "tenant" and c.name == change.tenant and c.operation != "update" for c in steps.changes):
        return
    if needs_second(tx, tx.names.tenant(change.tenant)):
        raise Conflict(
            f"{change.ref}: a change of these policies needs a second person: make a draft and have it approved",
            code="approval_needed",
            param=change.name,
        )


def _one(
    tx: Tx,
    change: Change,
    tenant_id: str,
    declared: Mapping[Ref, Entry],
    found: Mapping[str, Found],
    revision: int | None,
) -> str:
    service: Any = SERVICES[change.kind]
    if change.operation == "delete":
        service.delete(tx, tenant_id, change.name, revision)
        return ""
    spec = declared[change.ref].spec
    if isinstance(spec, SourceSpec):
        if change.operation == "create":
            sources.create(tx, "", spec, found.get(spec.name))
        else:
            sources.update(tx, "", spec, revision, found.get(spec.name))
        return ""
    if change.operation == "update":
        service.update(tx, tenant_id, spec, revision)
        return ""
    made = service.create(tx, tenant_id, spec)
    return made.secret if isinstance(made, keys.Minted) else ""


def _plan_principals(tx: Tx, steps: Plan) -> None:
    for change in steps.changes:
        if change.kind == "principal" and change.operation == "create":
            tx.names.plan_principal(tx.names.tenant(change.tenant), change.name, tx.tools.new_id("principal"))


def _keep_an_owner(tx: Tx, steps: Plan) -> None:
    """INVARIANT: the platform always has an owner that can act."""
    touched = any(c.kind in ("role", "principal") and c.operation != "create" for c in steps.changes)
    if touched and any(c.tenant in ("", "platform") for c in steps.changes):
        roles.require_owner(tx)
