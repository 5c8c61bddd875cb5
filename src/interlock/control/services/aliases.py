"""Aliases: model names of the company's own, for one tenant or (no tenant) for all."""

from __future__ import annotations

import msgspec

from interlock.control.amounts import SCALES, decimal_text, nano_usd
from interlock.control.documents import (
    CASCADE_CHECKS,
    AliasSpec,
    AliasTargetSpec,
    CascadeSpec,
    CascadeStepSpec,
    ShadowSpec,
    SloSpec,
    WeightsSpec,
)
from interlock.control.services import canaries
from interlock.control.services.base import Tx, data_class_name, missing, recording_name, workload_name
from interlock.control.validate import sunset_s, sunset_text
from interlock.storage import aliases
from interlock.storage.aliases import AliasRow
from interlock.storage.table import Stored
from interlock.types.identity import DataClass, Recording, Workload
from interlock.types.snapshot import AliasSlo, AliasTarget, AliasWeights, Cascade, CascadeStep, Shadow


def spec_of(alias: AliasRow) -> AliasSpec:
    """The declared form of an alias."""
    return AliasSpec(
        name=alias.name,
        targets=tuple(
            AliasTargetSpec(model=t.model, source=t.source, weight=t.weight, prefer_version=t.prefer_version)
            for t in alias.targets
        ),
        mode=alias.mode,  # type: ignore[arg-type]
        max_tokens=alias.max_tokens,
        data_class=data_class_name(alias.data_class),
        sunset=sunset_text(alias.sunset_s),
        request_class=alias.request_class,
        recording=recording_name(alias.recording),
        deprecated=sunset_text(alias.deprecated_s),
        successor=alias.successor,
        canary=None if alias.canary is None else canaries.spec_of(alias.canary),
        shadow=None if alias.shadow is None else _shadow_spec(alias.shadow),
        workload=workload_name(alias.workload),
        cascade=None if alias.cascade is None else _cascade_spec(alias.cascade),
        slo=None if alias.slo is None else _slo_spec(alias.slo),
        weights=None if alias.weights is None else WeightsSpec(**msgspec.structs.asdict(alias.weights)),
    )


def find(tx: Tx, tenant_id: str, name: str) -> Stored[AliasRow]:
    """The alias of that name. Raises NotFound."""
    found = aliases.by_name(tx.conn, tenant_id, name)
    if found is None:
        raise missing("alias", name)
    return found


def create(tx: Tx, tenant_id: str, spec: AliasSpec) -> Stored[AliasRow]:
    """A new alias. Raises Conflict when the name is taken."""
    empty = AliasRow(id=tx.tools.new_id("alias"), name=spec.name, tenant_id=tenant_id)
    return aliases.insert(tx.conn, _with(tx, empty, spec), tx.by)


def update(tx: Tx, tenant_id: str, spec: AliasSpec, revision: int | None = None) -> Stored[AliasRow]:
    """Everything but the name. Raises NotFound, Conflict."""
    return aliases.update(tx.conn, _with(tx, find(tx, tenant_id, spec.name).value, spec), tx.by, revision=revision)


def delete(tx: Tx, tenant_id: str, name: str, revision: int | None = None) -> None:
    """Raises NotFound, Conflict."""
    aliases.delete(tx.conn, find(tx, tenant_id, name).value.id, tx.by, revision=revision)


def _with(tx: Tx, alias: AliasRow, spec: AliasSpec) -> AliasRow:
    return msgspec.structs.replace(
        alias,
        targets=tuple(AliasTarget(t.model, t.source, t.weight, t.prefer_version) for t in spec.targets),
        mode=spec.mode,
        max_tokens=spec.max_tokens,
        data_class=int(DataClass[spec.data_class]),
        sunset_s=sunset_s(spec.sunset),
        request_class=spec.request_class,
        recording=Recording[spec.recording],
        deprecated_s=sunset_s(spec.deprecated),
        successor=spec.successor,
        canary=None if spec.canary is None else canaries.declared(tx, alias.canary, spec.canary),
        shadow=None if spec.shadow is None else _shadow(spec.shadow),
        workload=Workload[spec.workload],
        cascade=None if spec.cascade is None else _cascade(spec.cascade),
        slo=None if spec.slo is None else _slo(spec.slo),
        weights=None if spec.weights is None else AliasWeights(**msgspec.structs.asdict(spec.weights)),
    )


def _shadow_spec(shadow: Shadow) -> ShadowSpec:
    t = shadow.target
    return ShadowSpec(model=t.model, share_milli=shadow.share_milli, source=t.source, prefer_version=t.prefer_version)


def _shadow(spec: ShadowSpec) -> Shadow:
    return Shadow(AliasTarget(spec.model, spec.source, 1, spec.prefer_version), spec.share_milli)


def _cascade_spec(cascade: Cascade) -> CascadeSpec:
    return CascadeSpec(
        steps=tuple(CascadeStepSpec(model=step.model, source=step.source) for step in cascade.steps),
        checks=tuple(CASCADE_CHECKS[check] for check in cascade.checks),
        confidence_min_milli=cascade.confidence_min_milli or None,
        money_nusd_max=cascade.money_nusd_max or None,
        time_ms_max=cascade.time_ms_max or None,
    )


def _cascade(spec: CascadeSpec) -> Cascade:
    return Cascade(
        steps=tuple(CascadeStep(step.model, step.source) for step in spec.steps),
        checks=spec.checks,
        confidence_min_milli=spec.confidence_min_milli or 0,
        money_nusd_max=spec.money_nusd_max or 0,
        time_ms_max=spec.time_ms_max or 0,
    )


def _slo_spec(slo: AliasSlo) -> SloSpec:
    cost = None if slo.cost_nusd is None else decimal_text(slo.cost_nusd, SCALES["nusd"])
    return SloSpec(ttft_ms=slo.ttft_ms, latency_ms=slo.latency_ms, cost_usd=cost, strict=slo.strict)


def _slo(spec: SloSpec) -> AliasSlo:
    cost = None if spec.cost_usd is None else nano_usd(spec.cost_usd)
    return AliasSlo(spec.ttft_ms, spec.latency_ms, cost, spec.strict)
