"""Offers, features and readings that the routing tests build on."""

from __future__ import annotations

from interlock.routing.catalog import Catalog, offers_of
from interlock.types.identity import DataClass, Workload
from interlock.types.request import Features
from interlock.types.snapshot import Alias
from interlock.types.source import Labels, LoadReading, Model, Offer, Price, Source, SourceKind, SourceLimits

TENANT = "ten_a"


def source(
    name: str,
    *models: Model | str,
    on_prem: bool = True,
    tenant_id: str = "",
    granted_to: tuple[str, ...] = ("*",),
    limits: SourceLimits = SourceLimits(),  # noqa: B008 - frozen
    drained: bool = False,
) -> Source:
    """A source `src_<name>` with these models; a text stands for a plain model of that name."""
    return Source(
        id=f"src_{tenant_id}{name}",
        name=name,
        kind=SourceKind.vllm,
        base_url=f"http://{name}.example",
        tenant_id=tenant_id,
        granted_to=() if tenant_id else granted_to,
        labels=Labels(on_prem=on_prem),
        limits=limits,
        drained=drained,
        models=tuple(Model(name=m) if isinstance(m, str) else m for m in models),
    )


def offers(*sources: Source) -> tuple[Offer, ...]:
    """The offers of these sources."""
    return offers_of(sources)


def catalog(*sources: Source, aliases: tuple[Alias, ...] = (), tenant_id: str = TENANT) -> Catalog:
    """The catalog of a tenant over these sources."""
    return Catalog(tenant_id, offers_of(sources), aliases)


def features(
    asked: str = "m",
    *,
    operation: str = "chat",
    needs: tuple[str, ...] = (),
    prompt_bytes: int = 400,
    completion: int = 256,
    workload: Workload = Workload.interactive,
) -> Features:
    """Features of a plain call."""
    return Features(
        operation=operation,
        asked=asked,
        data_class=DataClass.internal,
        needs=needs,
        prompt_bytes=prompt_bytes,
        prompt_tokens_max=prompt_bytes + 16,
        completion_tokens_max=completion,
        workload=workload,
    )


def idle(inflight: int = 0) -> LoadReading:
    """A reading of an engine that does nothing."""
    return LoadReading(waiting=0, running=0, kv_permille=0, inflight=inflight, age_ms=100)


def queue(waiting: int, running: int = 8, **more: int | bool) -> LoadReading:
    """A reading of an engine with a queue."""
    fields = {"inflight": 0, "inflight_since": 0, "saturated": False, **more}
    return LoadReading(
        waiting=waiting,
        running=running,
        kv_permille=500,
        inflight=int(fields["inflight"]),
        inflight_since=int(fields["inflight_since"]),
        age_ms=100,
        saturated=bool(fields["saturated"]),
        stay_ms=int(fields.get("stay_ms", -1)),
    )


def priced(name: str, usd_per_mtok: float, quality_milli: int = 500) -> Model:
    """A model with one price for input and output."""
    nusd = int(usd_per_mtok * 1_000_000_000)
    return Model(
        name=name, quality_milli=quality_milli, price=Price(input_nusd_per_mtok=nusd, output_nusd_per_mtok=nusd)
    )
