"""What can answer: model sources, the models they offer, and what is known about their load."""

from __future__ import annotations

from enum import StrEnum
from zlib import crc32

import msgspec

from interlock.types.identity import DataClass


class SourceKind(StrEnum):
    """The protocol family of a source: which fields pass, where load is read, how it is discovered."""

    vllm = "vllm"
    llamacpp = "llamacpp"
    openai = "openai"
    anthropic = "anthropic"
    ollama = "ollama"


class EngineState(StrEnum):
    """How an engine is that Interlock itself runs (`interlock source run`), by its supervisor's last word."""

    starting = "starting"
    loading = "loading"
    ready = "ready"
    restarting = "restarting"
    stopping = "stopping"
    stopped = "stopped"
    failed = "failed"
    lost = "lost"
    """Its supervisor has not been heard of for `engine_silent_s`."""


ENGINE_COLD = frozenset((EngineState.starting.value, EngineState.loading.value, EngineState.restarting.value))
"""States in which an engine does not answer yet and is on its way to."""


class Ability(StrEnum):
    """What a model at a source can do; requests state what they need in the same words."""

    chat = "chat"
    completions = "completions"
    embeddings = "embeddings"
    tools = "tools"
    vision = "vision"
    json_schema = "json_schema"
    logprobs = "logprobs"
    thinking = "thinking"
    rerank = "rerank"
    score = "score"
    responses = "responses"
    """It has the Responses API, and is to be asked by it where callers are; never needed, and never assumed."""


CLOUD_KINDS = (SourceKind.openai, SourceKind.anthropic)
"""Kinds of APIs that others run: they serve models that they do not list, at list prices."""


class CredentialRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a secret is found, never the secret: an environment variable or a file, re-read on rotation.

    `header` "": as the source's kind has it, which is `authorization`, or a bare `x-api-key` for Anthropic's API.
    """

    env: str = ""
    file: str = ""
    header: str = ""
    scheme: str = "Bearer"
    """Put before the secret in the header value; empty for a bare value (`api-key: ...`)."""

    def carried(self, kind: SourceKind) -> tuple[str, str]:
        """(header in lower case, scheme) for a source of this kind."""
        if self.header:
            return self.header.lower(), self.scheme
        return ("x-api-key", "") if kind is SourceKind.anthropic else ("authorization", self.scheme)


class Labels(msgspec.Struct, frozen=True, omit_defaults=True):
    """Facts about a source that policies speak of. `data_class_max` is a hard bound, whatever policies say."""

    region: str = ""
    on_prem: bool = True
    data_class_max: DataClass = DataClass.restricted
    extra: dict[str, str] = {}


class PriceTier(msgspec.Struct, frozen=True, omit_defaults=True):
    """Prices of a whole call whose prompt has more than `above_tokens` tokens; in nano-USD per million tokens."""

    above_tokens: int
    input_nusd_per_mtok: int = 0
    cached_input_nusd_per_mtok: int = 0
    output_nusd_per_mtok: int = 0
    cache_write_nusd_per_mtok: int = -1


class Price(msgspec.Struct, frozen=True, omit_defaults=True):
    """Integer nano-USD per million tokens (1 USD per million = 1_000_000_000).

    `cache_write_nusd_per_mtok`: of prompt tokens that a provider reports as written to its cache; -1: as input.
    `tiers` by size of the prompt, smallest first; the last one whose `above_tokens` is exceeded holds for all tokens of
    the call. `origin` as in `interlock.types.usage.Cost`; "" in snapshots from before there were origins.
    """

    input_nusd_per_mtok: int = 0
    cached_input_nusd_per_mtok: int = 0
    output_nusd_per_mtok: int = 0
    cache_write_nusd_per_mtok: int = -1
    call_nusd: int = 0
    """Of each call, whatever its tokens."""
    tiers: tuple[PriceTier, ...] = ()
    origin: str = ""
    version: str = ""
    """Which rates these are: where they come from, and a hash over them."""
    hour_nusd: int = 0
    """Of an hour of the whole source, when the rates were made from that (`origin` "hour")."""
    without: tuple[str, ...] = ()
    """What the price list charges apart and no record shows, such as web searches: not in a cost made of this."""


class Power(msgspec.Struct, frozen=True, omit_defaults=True):
    """Estimated energy in microjoules, per call and per token that is worked on, with the range of each estimate.

    Tokens read from a prefix cache are not worked on. `method` names the estimate; "" in snapshots from before there
    were methods. `ug_per_kwh`: micrograms of CO2 equivalent per kilowatt-hour where the source runs (0: unknown), by
    the `grid` that is named.
    """

    input_uj_per_token: int = 0
    output_uj_per_token: int = 0
    call_uj: int = 0
    low_input_uj_per_token: int = 0
    low_output_uj_per_token: int = 0
    low_call_uj: int = 0
    high_input_uj_per_token: int = 0
    high_output_uj_per_token: int = 0
    high_call_uj: int = 0
    method: str = ""
    ug_per_kwh: int = 0
    grid: str = ""


class EnergyMeter(msgspec.Struct, frozen=True, omit_defaults=True):
    """What measures the energy of a source: devices of the machine on which the gateway node named `node` runs too.

    `devices`: index or UUID of each GPU that the source, and no other, uses.
    """

    node: str
    devices: tuple[str, ...]
    kind: str = "nvml"


class Timeouts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Per-source overrides of the gateway's time-outs, in milliseconds. None: the setting of the same name.

    `keep_loaded_ms`: how long an Ollama server is to keep a model loaded after a call; below 0: for ever; None: as it
    does by itself.
    """

    connect_ms: int | None = None
    first_event_ms: int | None = None
    between_events_ms: int | None = None
    total_ms: int | None = None
    keep_loaded_ms: int | None = None


class SourceLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """`concurrency`: calls in flight per node. `waiting_max`: queue depth above which the source counts as saturated;
    it counts as free again at or below `waiting_resume` (hysteresis). `context_tokens`: the context that an Ollama
    server is told to load each model with; 0: what it takes by itself."""

    concurrency: int | None = None
    waiting_max: int = 8
    waiting_resume: int = 2
    context_tokens: int = 0


class TlsRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """File paths of an own CA bundle and of a client certificate for mTLS; re-read when the files change."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


class Model(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model as a source serves it. `parent` is the base model of a LoRA adapter.

    `context_length` in tokens, 0 when unknown. `quality_milli` is a prior in [0, 1000]. `parameters_m`: millions of
    parameters, of a mixture all experts', 0 when unknown; `family`: what it is a size or a version of, "" when unknown:
    what a new model is likely to do is learned from others by these.
    """

    name: str
    abilities: tuple[str, ...] = ("chat", "completions")
    context_length: int = 0
    parent: str = ""
    version: str = ""
    quality_milli: int = 500
    price: Price = Price()
    power: Power = Power()
    parameters_m: int = 0
    family: str = ""


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model source as the snapshot carries it. `tenant_id` empty: owned by the platform, then `granted_to`
    lists the tenant ids that may be given it ("*": all). `base_url` ends before `api_prefix`."""

    id: str
    name: str
    kind: SourceKind
    base_url: str
    tenant_id: str = ""
    granted_to: tuple[str, ...] = ()
    api_prefix: str = "/v1"
    labels: Labels = Labels()
    limits: SourceLimits = SourceLimits()
    timeouts: Timeouts = Timeouts()
    credential: CredentialRef | None = None
    tls: TlsRef | None = None
    egress_proxy: str = ""
    """URL of an HTTP proxy that calls go through by CONNECT; no user information in it."""
    egress_proxy_credential: CredentialRef | None = None
    """Where the proxy's "user:password" is found (`header` and `scheme` do not apply)."""
    drained: bool = False
    engine: str = ""
    engine_version: str = ""
    extra_fields: str = "pass"
    """What happens to request fields nobody interprets: pass, drop or refuse."""
    models: tuple[Model, ...] = ()
    prefix_cache_salt: bool = True
    """Send vLLM's `cache_salt` per tenant, so that prefix-cache timing does not leak across tenants."""
    meter: EnergyMeter | None = None
    engine_state: str = ""
    """An `EngineState`; "": nobody of ours runs the engine."""
    priority_scheduling: bool = False
    """The engine schedules by the field `priority` (vLLM's `--scheduling-policy priority`): it is sent what the class
    of a call makes of it."""
    shares: dict[str, int] = {}
    """Weights of tenants, by id, when several want more of the source than there is; 1 where none is named."""


class Offer(msgspec.Struct, frozen=True):
    """One model at one source: what a request can be sent to. `key` is "source_name::model_name"."""

    source: Source
    model: Model
    key: str


class LoadReading(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was known of a source's load when a decision was made. -1 means unknown, never idle.

    `waiting`, `running`: requests at the engine. `kv_permille`: KV cache in use. `inflight`: our own calls on this
    node. `inflight_since`: of these, not in the engine's figures, be it that they were sent after the reading was taken
    or that the engine had not taken them up. `age_ms`: age of the engine's reading.
    """

    waiting: int = -1
    running: int = -1
    kv_permille: int = -1
    inflight: int = 0
    inflight_since: int = 0
    age_ms: int = -1
    healthy: bool = True
    saturated: bool = False
    """The hysteresis state published on the board, not recomputed per request."""
    loaded: int = -1
    """The models in the engine's memory, as a set of `loaded_bit`s; -1: it does not say, or has them all."""
    stay_ms: int = -1
    """How long a call of ours was there lately, its wait included, from being sent to its end: a mean; -1: unknown."""


class SourceState(msgspec.Struct, frozen=True, array_like=True):
    """What one node tells of a source: `LoadReading`'s figures, and what it makes of them.

    `breaker`: as `Board.breaker_state`. `contended`: calls of this node wait for seats there. `prefix_queries` and
    `prefix_hits`: tokens looked up and found in the engine's prefix cache since it started, -1 when it does not say.
    """

    id: str
    inflight: int
    waiting: int
    running: int
    kv_permille: int
    healthy: bool
    saturated: bool
    breaker: str
    contended: bool
    prefix_queries: int = -1
    prefix_hits: int = -1


LOADED_BITS = 60


def loaded_bit(model: str) -> int:
    """A model's place in `LoadReading.loaded`. Two models may share one: then one may be taken for loaded that is
    not."""
    return 1 << crc32(model.encode()) % LOADED_BITS
