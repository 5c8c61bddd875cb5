"""Model sources: what is declared, joined with what discovery finds there."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from interlock.control import prices
from interlock.control.documents import ModelSpec, SourceSpec, alias_sources, lean, restate
from interlock.control.power import Factor, power_of
from interlock.control.services.aliases import spec_of as spec_of_alias
from interlock.control.services.base import Tx, missing
from interlock.errors import Conflict, InterlockError
from interlock.sources.credentials import check_references
from interlock.storage import aliases, sources
from interlock.storage.sources import SourceRow
from interlock.storage.table import Stored
from interlock.types.identity import DataClass
from interlock.types.model_names import family_named, parameters_named
from interlock.types.source import (
    CLOUD_KINDS,
    CredentialRef,
    EnergyMeter,
    Labels,
    Model,
    Source,
    SourceKind,
    SourceLimits,
    Timeouts,
    TlsRef,
)

_S = TypeVar("_S", bound=Source)
OLLAMA_PREFIX = "/api"


class Found(msgspec.Struct, frozen=True):
    """What one look at a source gave: engine and models, or `error` (and then nothing else)."""

    engine: str = ""
    engine_version: str = ""
    models: tuple[Model, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str = ""


Discover = Callable[[Source], Found]
"""Looks at a source over the network; never raises."""


def spec_of(source: SourceRow) -> SourceSpec:
    """The declared form, as it was written."""
    return msgspec.convert(source.declared, SourceSpec)


def probe(spec: SourceSpec) -> Source:
    """The source as far as discovery needs it: without ids, and with models where no others are offered."""
    models = tuple([Model(pin.name) for pin in spec.models]) if spec.declared_only else ()
    return _declared(Source(id="", name=spec.name, kind=spec.kind, base_url=spec.url, models=models), spec)


def find(tx: Tx, name: str) -> Stored[SourceRow]:
    """The source of that name, whoever owns it, as far as the connection sees it. Raises NotFound."""
    found = sources.named(tx.conn, name)
    if found is None:
        raise missing("source", name)
    return found


def create(tx: Tx, _tenant_id: str, spec: SourceSpec, found: Found | None = None) -> Stored[SourceRow]:
    """A new source with what was found there (None: nobody looked yet). Raises Conflict when the name is taken, or
    `sources_max` are there already."""
    most = tx.tools.settings.sources_max
    if len(sources.page(tx.conn, limit=most)) >= most:
        raise Conflict(f"there are {most} sources already, the most that sources_max allows")
    row = SourceRow(id=tx.tools.new_id("source"), name=spec.name, kind=spec.kind, base_url=spec.url)
    row = _with(tx, row, spec)
    if found is not None:
        models, warnings = offered(
            spec, found.models, listed=not found.error, at=tx.by.at, factors=tx.tools.carbon_factors
        )
        row = msgspec.structs.replace(
            row,
            engine=found.engine,
            engine_version=found.engine_version,
            models=models,
            discovered_at=tx.by.at,
            discovery_error=found.error,
            warnings=found.warnings + warnings,
        )
    return sources.insert(tx.conn, row, tx.by)


def update(
    tx: Tx, _tenant_id: str, spec: SourceSpec, revision: int | None = None, found: Found | None = None
) -> Stored[SourceRow]:
    """Everything but the name. Raises NotFound, Conflict."""
    before = find(tx, spec.name)
    sources.update(tx.conn, _with(tx, before.value, spec), tx.by, revision=revision)
    observe(tx, before.value.id, spec, found or Found(error=before.value.discovery_error or "not looked at yet"))
    return find(tx, spec.name)


def observe(tx: Tx, source_id: str, spec: SourceSpec, found: Found) -> bool:
    """Store what was found; True when what the source offers has changed.

    When the source could not be asked, the models known before stay, under what is declared now.
    """
    stored = sources.get(tx.conn, source_id)
    if stored is None:
        raise missing("source", spec.name)
    known = stored.value
    base = known.models if found.error else found.models
    models, warnings = offered(spec, base, listed=not found.error, at=tx.by.at, factors=tx.tools.carbon_factors)
    changed = sources.observe(
        tx.conn,
        source_id,
        tx.by,
        engine=known.engine if found.error else found.engine,
        engine_version=known.engine_version if found.error else found.engine_version,
        models=models,
        warnings=found.warnings + warnings,
    )
    if found.error:
        sources.observe(tx.conn, source_id, tx.by, warnings=warnings, error=found.error)
    return changed


def set_drained(tx: Tx, name: str, drained: bool, revision: int | None = None) -> Stored[SourceRow]:
    """Give a source no new calls, or give it calls again; running ones finish. Raises NotFound, Conflict."""
    row = msgspec.structs.replace(find(tx, name).value, drained=drained)
    return sources.update(tx.conn, row, tx.by, revision=revision, action="drain" if drained else "undrain")


def delete(tx: Tx, _tenant_id: str, name: str, revision: int | None = None) -> None:
    """Raises NotFound, Conflict (an alias still leads to it)."""
    for stored in aliases.page(tx.conn, limit=10_000):
        for path, named in alias_sources(spec_of_alias(stored.value)):
            if named == name:
                what = "a target" if path[0] == "targets" else f"in the {path[0]}"
                raise Conflict(f"source {name!r} is {what} of alias {stored.value.name!r}", code="still_used")
    sources.delete(tx.conn, find(tx, name).value.id, tx.by, revision=revision)


def offered(
    spec: SourceSpec,
    found: tuple[Model, ...],
    *,
    listed: bool,
    at: datetime.datetime,
    factors: Mapping[str, Factor] | None = None,
) -> tuple[tuple[Model, ...], tuple[str, ...]]:
    """The models that a source offers, and remarks: what was found, under the declared pins, with prices and energy.

    A declared model that was not found is offered when the engine was not asked (`listed` false), or is a cloud API:
    these serve models that they do not list. Prices are those in force at `at`: each look brings them up to date.
    """
    pins = {pin.name: pin for pin in spec.models}
    out: dict[str, Model] = {}
    warnings: list[str] = []
    if spec.price_list and not prices.knows_list(spec.price_list):
        warnings.append(f"price_list {spec.price_list!r} is no provider of the price list")
    for model in found:
        if model.name in pins or not spec.declared_only:
            out[model.name] = _pinned(model, pins.get(model.name), spec, at, factors or {})
    for pin in spec.models:
        if pin.name in out:
            continue
        if listed and spec.kind not in CLOUD_KINDS:
            warnings.append(f"model {pin.name!r} is declared and the engine does not serve it")
            continue
        out[pin.name] = _pinned(Model(name=pin.name), pin, spec, at, factors or {})
    return tuple(out[name] for name in sorted(out)), tuple(warnings)


def _pinned(
    model: Model, pin: ModelSpec | None, spec: SourceSpec, at: datetime.datetime, factors: Mapping[str, Factor]
) -> Model:
    known = prices.listed(spec, model.name, at)
    changed: dict[str, object] = {
        "price": prices.price_of(spec, pin, known),
        "power": power_of(spec, model.name, pin, known, factors),
    }
    if pin is not None:
        for field in ("context_length", "parent", "version", "quality_milli", "parameters_m", "family"):
            value = getattr(pin, field)
            if value is not None:
                changed[field] = value
        if pin.abilities is not None:
            changed["abilities"] = tuple(sorted(a.value for a in pin.abilities))
    return _with_kin(msgspec.structs.replace(model, **changed))


def _with_kin(model: Model) -> Model:
    """What nobody told of its size and family: as its name says, or of an adapter that of its base model."""
    named = model.parent or model.name
    return msgspec.structs.replace(
        model,
        parameters_m=model.parameters_m or parameters_named(named),
        family=model.family or family_named(named),
    )


def _with(tx: Tx, row: SourceRow, spec: SourceSpec) -> SourceRow:
    """Raises ConfigError when it refers to a secret or file that such a source may not have."""
    granted = tuple("*" if name == "*" else tx.names.tenant(name) for name in spec.granted_to)
    out = msgspec.structs.replace(
        _declared(row, spec),
        tenant_id=tx.names.tenant(spec.tenant),
        granted_to=granted,
        shares={tx.names.tenant(name): weight for name, weight in spec.shares.items()},
        declared=lean(spec),
    )
    check_references(out, tx.tools.settings)
    return out


def _declared(source: _S, spec: SourceSpec) -> _S:
    return msgspec.structs.replace(
        source,
        kind=spec.kind,
        base_url=spec.url.rstrip("/"),
        api_prefix=_api_prefix(spec),
        labels=Labels(
            region=spec.labels.region,
            on_prem=spec.labels.on_prem,
            data_class_max=DataClass[spec.labels.data_class_max],
            extra=spec.labels.extra,
        ),
        limits=restate(spec.limits, SourceLimits),
        timeouts=restate(spec.timeouts, Timeouts),
        credential=restate(spec.credential, CredentialRef),
        tls=restate(spec.tls, TlsRef),
        egress_proxy=spec.egress_proxy,
        egress_proxy_credential=restate(spec.egress_proxy_credential, CredentialRef),
        extra_fields=spec.extra_fields,
        prefix_cache_salt=spec.prefix_cache_salt,
        meter=_meter(spec),
        priority_scheduling=spec.priority_scheduling,
    )


def _api_prefix(spec: SourceSpec) -> str:
    """An Ollama server's own API is below another prefix than OpenAI's, which is the default."""
    default = spec.api_prefix == SourceSpec("", spec.kind, "").api_prefix
    return OLLAMA_PREFIX if spec.kind is SourceKind.ollama and default else spec.api_prefix


def _meter(spec: SourceSpec) -> EnergyMeter | None:
    if spec.meter is None:
        return None
    return EnergyMeter(spec.meter.node, tuple(str(device) for device in spec.meter.devices), spec.meter.kind)


def refresh(tx: Tx, name: str, found: Found) -> bool:
    """Store a new look at a source; True when what it offers has changed. Raises NotFound."""
    stored = find(tx, name)
    return observe(tx, stored.value.id, spec_of(stored.value), found)


def looked(discover: Callable[[Source], object], source: Source) -> Found:
    """`discover` with its errors turned into `Found.error`, in words that name the source."""
    try:
        value = discover(source)
    except InterlockError as e:
        return Found(error=e.message)
    return msgspec.convert(value, Found, from_attributes=True)
