"""Any configuration: written and read it is the same, and applying a plan leaves nothing to plan."""

from __future__ import annotations

import string

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.control.documents import (
    AliasSpec,
    AliasTargetSpec,
    Document,
    KeySpec,
    LimitsSpec,
    PolicySpec,
    PriceSpec,
    PrincipalSpec,
    RoleSpec,
    SourceSpec,
    TeamSpec,
    TenantSpec,
    lean,
)
from interlock.control.parse import dump, parse
from interlock.control.plan import Entry, Plan, Ref, flatten, plan, sections
from interlock.control.state import document as stored_document
from interlock.types.identity import AdminRole, PrincipalKind, Scope
from interlock.types.source import SourceKind

NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=3)
TEXTS = st.text(string.ascii_letters + string.digits + string.punctuation + " äß€中", max_size=12)
LIMITS = st.none() | st.builds(LimitsSpec, requests_per_minute=st.none() | st.integers(1, 9), concurrency=st.just(3))


def _named(strategy: st.SearchStrategy[object], name: str = "name") -> st.SearchStrategy[object]:
    return st.lists(strategy, max_size=3, unique_by=lambda spec: getattr(spec, name)).map(tuple)


ALIASES = _named(
    st.builds(AliasSpec, name=NAMES, targets=st.tuples(st.builds(AliasTargetSpec, model=NAMES)), mode=st.just("eco"))
)
POLICIES = _named(st.builds(PolicySpec, id=NAMES, cedar=TEXTS, words=TEXTS), "id")
TENANTS = _named(
    st.builds(
        TenantSpec,
        name=NAMES,
        teams=_named(st.builds(TeamSpec, name=NAMES, cost_center=TEXTS, limits=LIMITS)),
        principals=_named(
            st.builds(PrincipalSpec, name=NAMES, kind=st.sampled_from(PrincipalKind), teams=st.lists(NAMES).map(tuple))
        ),
        keys=_named(
            st.builds(
                KeySpec,
                name=NAMES,
                principal=NAMES,
                scopes=st.lists(st.sampled_from(Scope), min_size=1, unique=True).map(tuple),
                expires_in_days=st.integers(0, 9),
            )
        ),
        policies=POLICIES,
        aliases=ALIASES,
        roles=_named(st.builds(RoleSpec, principal=NAMES, role=st.sampled_from(AdminRole)), "principal"),
    )
)
SOURCES = _named(
    st.builds(
        SourceSpec,
        name=NAMES,
        kind=st.sampled_from(SourceKind),
        url=TEXTS,
        granted_to=st.lists(NAMES, unique=True, max_size=2).map(tuple),
        price=st.none() | st.builds(PriceSpec, input_usd_per_mtok=st.floats(0, 9) | st.just("0.1")),
    )
)
DOCUMENTS = st.builds(Document, tenants=TENANTS, sources=SOURCES, policies=POLICIES, aliases=ALIASES)


def _carry_out(stored: dict[Ref, Entry], declared: dict[Ref, Entry], steps: Plan) -> dict[Ref, Entry]:
    """What the steps alone make of what is stored."""
    out = dict(stored)
    for change in steps.changes:
        if change.operation == "delete":
            assert change.ref in out
            del out[change.ref]
        else:
            assert (change.ref in out) == (change.operation == "update")
            out[change.ref] = declared[change.ref]
    return out


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS)
def test_a_document_survives_writing_and_reading(document: Document) -> None:
    assert lean(parse([("x.yaml", dump(document))])[0]) == lean(document)


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, DOCUMENTS)
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(before: Document, after: Document) -> None:
    stored, declared = flatten(before), flatten(after)
    for prune in (False, True):
        steps = plan(stored, declared, prune=prune, within=sections(after))
        result = _carry_out(stored, declared, steps)
        assert plan(result, declared, prune=prune, within=sections(after)) == Plan(())
        assert set(declared) <= set(result)
        if not prune:
            assert not [c for c in steps.changes if c.operation == "delete"]
            assert set(stored) <= set(result)
        else:
            assert set(result) == set(declared)


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS)
def test_an_export_declares_exactly_what_is_stored(document: Document) -> None:
    entries = flatten(document)
    exported = flatten(stored_document(entries))
    assert plan(entries, exported, prune=True, within=sections(stored_document(entries))) == Plan(())
    assert set(exported) == set(entries)
