"""The life of policies: draft, report only, approval by a second person, activation, roll-back; each is a change.

A draft is a whole set of policies, of one tenant or of the platform. It names the version that it was made from, and an
approval names the digest of exactly that set: whoever changes either needs a new approval.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from psycopg import Connection

from interlock.control.apply import Configurator, Origin, Reason, execute, needs_second
from interlock.control.documents import PolicySpec
from interlock.control.identity import Actor
from interlock.control.permissions import Action
from interlock.control.plan import Change, Entry, Ref, plan
from interlock.control.services import policies
from interlock.control.services.base import Tx
from interlock.control.validate import form
from interlock.errors import BadRequest, Conflict, Denied, NotFound
from interlock.storage import policy_drafts, policy_versions
from interlock.storage.policy_drafts import Approval, Draft, Written, digest_of

POLICIES_MAX = 4096
"""Most policies of one draft."""


class DraftView(msgspec.Struct, frozen=True):
    """A draft. `authors`: ids of all who wrote on it. `approvals` are those that count: of its present digest, by
    others than its authors. `changes`: what activation would do. `current`: it was made from what is in force now."""

    base: int
    digest: str
    report_only: bool
    policies: tuple[Written, ...]
    authors: tuple[str, ...]
    approvals: tuple[Approval, ...]
    approval_needed: bool
    current: bool
    changes: tuple[Change, ...]


class Activated(msgspec.Struct, frozen=True):
    """The version that is in force now, and what was changed."""

    version: int
    changes: tuple[Change, ...]


def written(specs: Iterable[PolicySpec]) -> tuple[Written, ...]:
    """Declared policies with their texts, by id. Raises ConfigError, BadRequest."""
    found: dict[str, Written] = {}
    for spec in specs:
        for path, words in form(Ref("policy", "", spec.id), spec):
            raise BadRequest(f"policy {spec.id!r}: {words}", param=".".join(map(str, path)) or "policies")
        cedar, words = policies.check(spec)
        if spec.id in found:
            raise BadRequest(f"policy {spec.id!r} is there twice", param="policies")
        found[spec.id] = Written(spec.id, cedar, words, spec.template, spec.parameters, spec.report_only)
    if len(found) > POLICIES_MAX:
        raise BadRequest(f"a draft has at most {POLICIES_MAX} policies", param="policies")
    return tuple(found[name] for name in sorted(found))


def spec_of(policy: Written) -> PolicySpec:
    """The declared form."""
    if policy.template:
        return PolicySpec(
            id=policy.id, template=policy.template, parameters=policy.parameters, report_only=policy.report_only
        )
    return PolicySpec(id=policy.id, words=policy.words, cedar=policy.cedar, report_only=policy.report_only)


def valid_approvals(draft: Draft) -> tuple[Approval, ...]:
    """The approvals that count.

    INVARIANT: of exactly this text, and by nobody who wrote on it.
    """
    return tuple(a for a in draft.approvals if a.digest == draft.digest and a.by_id not in draft.authors)


def draft_of(conn: Connection[Any], tenant_id: str) -> Draft:
    """The draft. Raises NotFound."""
    found = policy_drafts.of(conn, tenant_id)
    if found is None:
        raise NotFound("there is no draft of these policies", code="no_draft", param="draft")
    return found.value


def view(tx: Tx, tenant: str, tenant_id: str) -> DraftView:
    """The draft as administrators see it. Raises NotFound."""
    draft = draft_of(tx.conn, tenant_id)
    return DraftView(
        draft.base,
        draft.digest,
        draft.report_only,
        draft.policies,
        draft.authors,
        valid_approvals(draft),
        needs_second(tx, tenant_id),
        policy_versions.newest(tx.conn, tenant_id) == draft.base,
        _steps(tx, tenant, tenant_id, draft.policies)[0],
    )


def _steps(
    tx: Tx, tenant: str, tenant_id: str, wanted: Iterable[Written]
) -> tuple[tuple[Change, ...], dict[Ref, Entry]]:
    """What makes the policies in force these, and the entries it is made of."""
    stored = {Ref("policy", tenant, p.id): Entry(spec_of(p)) for p in policy_versions.in_force(tx.conn, tenant_id)}
    declared = {Ref("policy", tenant, p.id): Entry(spec_of(p)) for p in wanted}
    return plan(stored, declared, prune=True, within={("policy", tenant)}).changes, declared


class Lifecycle:
    """What is done with drafts and versions. `tenant` is a name, "" for the platform's. Threads may share one."""

    def __init__(self, configurator: Configurator) -> None:
        self._configurator = configurator

    @contextlib.contextmanager
    def _acting(self, actor: Actor, tenant: str, action: Action, reason: Reason) -> Iterator[tuple[Tx, str]]:
        with self._configurator.acting(actor, Ref("policy", tenant, "draft"), action, reason) as tx:
            yield tx, tx.names.tenant(tenant)

    def draft(
        self,
        actor: Actor,
        tenant: str,
        specs: Iterable[PolicySpec] | None,
        reason: Reason,
        version: int = 0,
        seen: str | None = None,
    ) -> DraftView:
        """Begin a draft, or write another text into it; from an earlier version when no policies are given.

        An approval that it had was of another text, and does not count. `seen`: the digest of the draft that was looked
        at, or without one of what was in force; None writes over whatever is there.

        Raises ConfigError, BadRequest, NotFound, Denied, Conflict (`draft_changed`: it is not the one that was seen).
        """
        texts = written(specs) if specs is not None else None
        with self._acting(actor, tenant, Action.policy_draft, reason) as (tx, tenant_id):
            if texts is None:
                texts = written(map(spec_of, _version(tx, tenant_id, version).policies))
            base = policy_versions.newest(tx.conn, tenant_id)
            digest = digest_of(tenant_id, base, texts)
            before = policy_drafts.of(tx.conn, tenant_id)
            if seen is not None and seen != (before.value.digest if before else _digest_in_force(tx, tenant_id, base)):
                raise Conflict(
                    "somebody else changed the draft since this page was opened: look at it as it is now, then repeat"
                    " what you did",
                    code="draft_changed",
                    param="digest",
                )
            if before is None:
                new = Draft(
                    tx.tools.new_id("policy_draft"), tenant_id, base, digest, texts, authors=(actor.principal_id,)
                )
                policy_drafts.insert(tx.conn, new, tx.by)
            elif before.value.digest != digest:
                authors = tuple(dict.fromkeys((*before.value.authors, actor.principal_id)))
                new = msgspec.structs.replace(before.value, base=base, digest=digest, policies=texts, authors=authors)
                policy_drafts.update(tx.conn, new, tx.by, "update")
            return view(tx, tenant, tenant_id)

    def discard(self, actor: Actor, tenant: str, reason: Reason, seen: str | None = None) -> None:
        """Give it up; `seen`: only if it has this digest. Raises NotFound, Denied, Conflict (`draft_changed`)."""
        with self._acting(actor, tenant, Action.policy_draft, reason) as (tx, tenant_id):
            draft = draft_of(tx.conn, tenant_id)
            if seen is not None:
                _same(draft, seen)
            policy_drafts.delete(tx.conn, draft, tx.by)

    def report_only(self, actor: Actor, tenant: str, on: bool, reason: Reason) -> DraftView:
        """Evaluate the draft beside what is in force, or no longer. It decides nothing. Raises NotFound, Denied."""
        with self._acting(actor, tenant, Action.policy_draft, reason) as (tx, tenant_id):
            draft = msgspec.structs.replace(draft_of(tx.conn, tenant_id), report_only=on)
            policy_drafts.update(tx.conn, draft, tx.by, "report" if on else "unreport")
            return view(tx, tenant, tenant_id)

    def approve(self, actor: Actor, tenant: str, digest: str, reason: Reason) -> DraftView:
        """A second person's yes to the text that has this digest.

        Raises NotFound, Denied (`own_draft`: to an author), Conflict (`draft_changed`: it has another digest).
        """
        with self._acting(actor, tenant, Action.policy_approve, reason) as (tx, tenant_id):
            draft = draft_of(tx.conn, tenant_id)
            _same(draft, digest)
            if actor.principal_id in draft.authors:
                raise Denied("nobody approves a draft that they wrote on: a second person has to", code="own_draft")
            others = tuple(a for a in draft.approvals if a.by_id != actor.principal_id)
            approval = Approval(actor.principal_id, actor.name, int(tx.by.at.timestamp()), reason.text, draft.digest)
            new = msgspec.structs.replace(draft, approvals=(*others, approval))
            policy_drafts.update(tx.conn, new, tx.by, "approve")
            return view(tx, tenant, tenant_id)

    def activate(self, actor: Actor, tenant: str, digest: str, reason: Reason) -> Activated:
        """Put the draft in force, whole; the draft is no more.

        Raises NotFound, Denied, Conflict: `draft_changed` (another digest), `draft_outdated` (the policies in force are
        no longer those that it was made from), `approval_needed`.
        """
        with self._acting(actor, tenant, Action.policy_activate, reason) as (tx, tenant_id):
            draft = draft_of(tx.conn, tenant_id)
            _same(draft, digest)
            again = digest_of(tenant_id, draft.base, written(map(spec_of, draft.policies)))
            if policy_versions.newest(tx.conn, tenant_id) != draft.base or again != draft.digest:
                raise Conflict(
                    "the policies in force are no longer those that the draft was made from: draft it again, so that"
                    " nothing is lost unseen",
                    code="draft_outdated",
                )
            approvals = valid_approvals(draft)
            if needs_second(tx, tenant_id) and not approvals:
                raise Conflict(
                    "a change of these policies needs a second person: somebody who did not write the draft approves"
                    f" of {draft.digest[:12]}",
                    code="approval_needed",
                )
            done = self._enforce(tx, tenant, tenant_id, draft.policies, Origin("draft", approvals=approvals))
            policy_drafts.delete(tx.conn, draft, tx.by)
            return done

    def roll_back(self, actor: Actor, tenant: str, number: int, reason: Reason) -> Activated:
        """Put an earlier version in force again, as a new one.

        Raises NotFound, Denied, Conflict (`approval_needed`: draft that version and have it approved).
        """
        with self._acting(actor, tenant, Action.policy_activate, reason) as (tx, tenant_id):
            version = _version(tx, tenant_id, number)
            if needs_second(tx, tenant_id):
                raise Conflict(
                    "a change of these policies needs a second person: make a draft of that version and have it"
                    " approved",
                    code="approval_needed",
                )
            return self._enforce(tx, tenant, tenant_id, version.policies, Origin("rollback", number))

    def _enforce(self, tx: Tx, tenant: str, tenant_id: str, wanted: tuple[Written, ...], origin: Origin) -> Activated:
        steps, declared = _steps(tx, tenant, tenant_id, wanted)
        if not steps:
            raise Conflict("these are the policies in force already", code="no_change")
        execute(tx, msgspec.structs.replace(plan({}, {}), changes=steps), declared, {}, origin=origin)
        return Activated(policy_versions.newest(tx.conn, tenant_id), steps)


def _digest_in_force(tx: Tx, tenant_id: str, version: int) -> str:
    return digest_of(tenant_id, version, policy_versions.in_force(tx.conn, tenant_id))


def _same(draft: Draft, digest: str) -> None:
    # the whole of it: an author could make two drafts that begin alike, and swap them while somebody reads
    if digest != draft.digest:
        raise Conflict(
            f"the draft is {draft.digest[:12]}, not {digest[:12] or '(no digest given)'}: look at it again",
            code="draft_changed",
            param="digest",
        )


def _version(tx: Tx, tenant_id: str, number: int) -> policy_versions.Version:
    found = policy_versions.get(tx.conn, tenant_id, number)
    if found is None:
        raise NotFound(f"there is no version {number} of these policies", param="version")
    return found
