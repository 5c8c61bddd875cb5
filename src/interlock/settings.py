"""Every setting, typed, with its unit in its name, its default and one sentence.

Order of precedence: environment (`INTERLOCK_<NAME>`), then `interlock.toml` in the home folder, then the default.
An unknown name in the file, or a value of the wrong type, stops the start with the name and the reason.
`docs/settings.md` lists them all; a test holds the two together.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interlock.errors import ConfigError
from interlock.settings_routing import RoutingSettings, setting

ENV_PREFIX = "INTERLOCK_"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings(RoutingSettings):
    """All settings of one process. Build with `load`; tests build it directly."""

    # -- home and processes
    home: str = setting("~/.interlock", "Folder of everything this installation keeps.", group="home")
    node: str = setting("", "Name of this node in records; empty: the host name.", group="home")
    workers: int = setting(0, "Gateway worker processes; 0: one per core.", group="home", minimum=0)
    worker_silent_ms_max: int = setting(
        30_000, "How long a worker's event loop may stand still before it is replaced.", group="home", minimum=1000
    )
    stop_grace_ms: int = setting(6000, "How long running calls may finish when asked to stop.", group="home", minimum=0)
    pepper_file: str = setting(
        "", "File with the secret that API keys are hashed under; empty: `secrets/pepper` in the home.", group="home"
    )
    key_environment: str = setting(
        "live", "What new API keys carry behind `il_`: 1 to 12 lower-case letters or digits.", group="home"
    )
    log_level: str = setting("info", "Least level of the structured log: debug, info, warning, error.", group="home")

    # -- database
    database_url: str = setting("", "PostgreSQL of this cell; empty: the embedded one.", group="database")
    database_pool_max: int = setting(8, "Connections a control process holds at most.", group="database", minimum=2)
    database_connect_timeout_ms: int = setting(3000, "Longest wait for a connection.", group="database", minimum=1)
    database_statement_timeout_ms: int = setting(15000, "Longest run of one statement.", group="database", minimum=1)
    migration_lock_timeout_ms: int = setting(
        60_000, "Longest wait for another process that migrates the schema.", group="database", minimum=1
    )
    embedded_port: int = setting(
        0, "TCP port of the embedded PostgreSQL on 127.0.0.1; 0: unix socket only.", group="database", minimum=0
    )
    embedded_user: str = setting(
        "nobody", "System user the embedded PostgreSQL runs as when Interlock runs as root.", group="database"
    )
    embedded_stop_timeout_ms: int = setting(
        1500, "Longest wait for the embedded PostgreSQL to stop before it is stopped hard.", group="database", minimum=1
    )
    embedded_start_timeout_ms: int = setting(
        20000, "Longest wait for the embedded PostgreSQL to accept connections.", group="database", minimum=1
    )

    # -- gateway: listening
    gateway_host: str = setting("127.0.0.1", "Address the gateway listens on.", group="gateway")
    gateway_port: int = setting(8080, "Port the gateway listens on; 0: any free one.", group="gateway", minimum=0)
    gateway_server: str = setting(
        "native", "HTTP server of the gateway: native, or uvicorn as the fallback.", group="gateway"
    )
    tls_cert_file: str = setting("", "Certificate chain of the gateway (PEM); empty: no TLS.", group="gateway")
    tls_key_file: str = setting("", "Private key of that certificate (PEM).", group="gateway")
    tls_reload_interval_ms: int = setting(
        5000, "How often the certificate files are looked at for a change.", group="gateway", minimum=100
    )
    listen_backlog: int = setting(1024, "Connections that may wait to be accepted.", group="gateway", minimum=1)
    connections_max: int = setting(
        8192, "Client connections per worker; more are closed at once.", group="gateway", minimum=1
    )
    head_bytes_max: int = setting(32768, "Largest request line plus headers.", group="gateway", minimum=1024)
    head_memo_max: int = setting(
        4096, "Connections per worker whose last request head is remembered; 0: none.", group="gateway", minimum=0
    )
    headers_max: int = setting(100, "Most header fields in a request.", group="gateway", minimum=8)
    body_bytes_max: int = setting(20_000_000, "Largest request body.", group="gateway", minimum=1024)
    bodies_bytes_max: int = setting(
        512_000_000, "Request bodies held by one worker together.", group="gateway", minimum=1024
    )
    messages_max: int = setting(4096, "Most messages in one chat request.", group="gateway", minimum=1)
    json_depth_max: int = setting(64, "Deepest nesting of a request body.", group="gateway", minimum=4)
    answers_max: int = setting(128, "Most answers (`n`) one request may ask for.", group="gateway", minimum=1)
    image_tokens_max: int = setting(
        4096, "Tokens reserved for one image, whose size in tokens only the model knows.", group="gateway", minimum=1
    )
    pipelined_requests_max: int = setting(
        8, "Requests of one connection that wait for their turn; above it reading stops.", group="gateway", minimum=1
    )
    head_timeout_ms: int = setting(10_000, "Longest wait for a request's head.", group="gateway", minimum=1)
    body_timeout_ms: int = setting(60_000, "Longest wait for a request's body.", group="gateway", minimum=1)
    idle_timeout_ms: int = setting(75_000, "How long an idle connection is kept.", group="gateway", minimum=1)
    write_buffer_bytes_max: int = setting(
        262_144, "Bytes a slow reader may leave unread before its source is paused.", group="gateway", minimum=1024
    )
    slow_reader_timeout_ms: int = setting(
        120_000, "How long a reader may take nothing before its call is cut.", group="gateway", minimum=1
    )
    keepalive_comment_ms: int = setting(
        15_000,
        "Silence on a stream, also before its first event, after which a keep-alive comment is sent.",
        group="gateway",
        minimum=100,
    )
    calls_max: int = setting(4096, "Calls in progress per worker; more are refused.", group="gateway", minimum=1)
    completion_tokens_default: int = setting(
        4096, "Bound on an answer when neither request nor alias names one.", group="gateway", minimum=1
    )
    template_tokens_per_message: int = setting(
        16, "Allowance for the chat template when prompt tokens are bounded.", group="gateway", minimum=0
    )

    # -- gateway: upstream
    connect_timeout_ms: int = setting(3000, "Longest wait for a connection to a source.", group="upstream", minimum=1)
    first_event_timeout_ms: int = setting(
        120_000, "Longest wait for the first event of an answer.", group="upstream", minimum=1
    )
    model_load_timeout_ms: int = setting(
        300_000,
        "How much longer the first event of an answer may take where a model may have to be loaded first.",
        group="upstream",
        minimum=0,
    )
    between_events_timeout_ms: int = setting(60_000, "Longest silence inside an answer.", group="upstream", minimum=1)
    total_timeout_ms: int = setting(900_000, "Longest call altogether.", group="upstream", minimum=1)
    pool_connections_max: int = setting(4096, "Connections to one source per worker.", group="upstream", minimum=1)
    pool_idle_max: int = setting(256, "Idle connections kept to one source per worker.", group="upstream", minimum=0)
    pool_idle_ms: int = setting(30_000, "How long an idle upstream connection is kept.", group="upstream", minimum=1)
    response_bytes_max: int = setting(
        64_000_000, "Largest unstreamed answer taken from a source.", group="upstream", minimum=1024
    )
    event_bytes_max: int = setting(4_000_000, "Largest single streamed event.", group="upstream", minimum=1024)
    error_bytes_max: int = setting(65_536, "Bytes kept of a source's error answer.", group="upstream", minimum=256)
    attempts_max: int = setting(3, "Tries of one call, over all its candidates.", group="upstream", minimum=1)
    retry_after_ms_max: int = setting(
        30_000, "Longest Retry-After of a source that is believed.", group="upstream", minimum=0
    )

    # -- record log
    stream_sync_ms: int = setting(
        50, "Streamed text is durable after at most this long.", group="record log", minimum=1
    )
    segment_bytes: int = setting(
        67_108_864, "Size at which a log segment is closed.", group="record log", minimum=65536
    )
    log_disk_bytes_max: int = setting(
        50_000_000_000,
        "Disk the record log of this node may use; above it calls are refused.",
        group="record log",
        minimum=1_048_576,
    )
    log_disk_free_bytes_min: int = setting(
        268_435_456,
        "Free disk below which calls are refused, kept for the outcomes of running ones.",
        group="record log",
        minimum=0,
    )
    log_pending_bytes_max: int = setting(
        67_108_864,
        "Records of one worker that wait for the disk; above it calls are refused.",
        group="record log",
        minimum=65536,
    )
    log_sync_gap_ms: int = setting(
        2,
        "Longest wait of an fsync for a pause in a worker's work; 0: never wait.",
        group="record log",
        minimum=0,
    )
    log_check_ms: int = setting(
        1000, "How often the log's disk use and free disk are looked at.", group="record log", minimum=10
    )
    record_bytes_max: int = setting(134_217_728, "Largest single record.", group="record log", minimum=65536)
    log_alive_ms: int = setting(
        1000,
        "How often a worker notes in its log that it is there, so that a quiet hour can be proved complete.",
        group="record log",
        minimum=50,
    )

    # -- ledger
    ledger_name: str = setting(
        "interlock.local",
        "Name that checkpoints are signed under; one for all processes of a cell, and never changed.",
        group="ledger",
    )
    ledger_key_file: str = setting(
        "",
        "File with the master key of recorded contents; empty: `secrets/ledger_key` in the home.",
        group="ledger",
    )
    ledger_signing_key_file: str = setting(
        "",
        "File with the key that checkpoints are signed with; empty: `secrets/ledger_signing_key` in the home.",
        group="ledger",
    )
    ledger_ship_ms: int = setting(
        250, "How often new records are shipped from a node's log to the database.", group="ledger", minimum=10
    )
    log_keep_s: int = setting(
        86_400,
        "How long what is shipped stays in a node's log, for `ledger tail` and `route explain` there.",
        group="ledger",
        minimum=0,
    )
    ledger_batch_entries: int = setting(
        500, "Most entries shipped or sequenced in one transaction.", group="ledger", minimum=1
    )
    ledger_batch_bytes: int = setting(
        16_777_216, "Size of contents at which a transaction of the shipper ends.", group="ledger", minimum=65536
    )
    ledger_open_bytes_max: int = setting(
        268_435_456,
        "Records of running calls a shipper holds; what is more is read from the log again.",
        group="ledger",
        minimum=1_048_576,
    )
    ledger_keys_max: int = setting(10_000, "Subjects whose keys a process keeps ready.", group="ledger", minimum=16)
    ledger_sealed_bytes: int = setting(
        16_777_216,
        "Encrypted contents that a shipper remembers, so that what a conversation says again is not encrypted again; "
        "0: none.",
        group="ledger",
        minimum=0,
    )
    ledger_sequence_ms: int = setting(
        250, "How often shipped entries are given their place in the ledger.", group="ledger", minimum=10
    )
    ledger_clock_skew_ms: int = setting(
        60_000,
        "Difference of clocks between machines that an export allows for: it begins that much earlier.",
        group="ledger",
        minimum=0,
    )
    ledger_receipts: str = setting(
        "asked",
        "Who gets a signed receipt with an answer: `asked` (who sends `x-interlock-receipt: true`) or `all`.",
        group="ledger",
    )
    ledger_checkpoint_s: int = setting(
        10, "How often a tenant's tree is signed while it grows; 0: with every batch.", group="ledger", minimum=0
    )
    ledger_quiet_checkpoint_s: int = setting(
        60, "How often a tenant's tree is signed while nothing happens.", group="ledger", minimum=1
    )
    ledger_retire_silent_s: int = setting(
        600, "How long a node must have been silent before it may be retired.", group="ledger", minimum=0
    )

    ledger_retention_s: int = setting(
        3600, "How often contents are looked for that were kept long enough.", group="ledger", minimum=1
    )
    ledger_retention_batch: int = setting(
        1000,
        "Most contents removed in one transaction; who adds contents of the tenant waits for it.",
        group="ledger",
        minimum=1,
    )

    # -- snapshot
    snapshot_poll_ms: int = setting(
        1000, "How often a node asks for a newer snapshot, besides being told.", group="snapshot", minimum=50
    )
    snapshot_deltas_max: int = setting(
        256, "Deltas stored beside a node's snapshot before it is written whole again.", group="snapshot", minimum=1
    )
    snapshot_age_max_s_public: int = setting(
        604_800, "Oldest confirmed snapshot on which public calls are served.", group="snapshot", minimum=1
    )
    snapshot_age_max_s_internal: int = setting(
        86_400, "Oldest confirmed snapshot on which internal calls are served.", group="snapshot", minimum=1
    )
    snapshot_age_max_s_confidential: int = setting(
        14_400, "Oldest confirmed snapshot on which confidential calls are served.", group="snapshot", minimum=1
    )
    snapshot_age_max_s_restricted: int = setting(
        3_600, "Oldest confirmed snapshot on which restricted calls are served.", group="snapshot", minimum=1
    )
    snapshot_history_versions: int = setting(
        1000,
        "Versions of which superseded keys and principals are kept in the database.",
        group="snapshot",
        minimum=1,
    )
    decision_cache_max: int = setting(
        65_536, "Authorization decisions a worker remembers.", group="snapshot", minimum=16
    )
    principal_cache_max: int = setting(
        8192, "Decoded keys and principals a worker remembers.", group="snapshot", minimum=16
    )

    tenant_cache_max: int = setting(
        1024, "Tenants whose models and sources by name a worker keeps ready.", group="snapshot", minimum=1
    )
    policy_tenants_max: int = setting(
        256,
        "Tenants whose policies a worker keeps parsed; another one's next call parses them.",
        group="snapshot",
        minimum=2,
    )
    policy_callers_max: int = setting(
        1024, "Callers whose place among the policies a worker keeps ready.", group="snapshot", minimum=2
    )
    policy_tenants_prepared: int = setting(
        16,
        "Tenants whose policies are parsed before a new snapshot is used; the others' at their first call.",
        group="snapshot",
        minimum=0,
    )

    # -- changes of policies
    policy_approval: str = setting(
        "tenant",
        "Whose policies need a second person to change: `tenant`: of tenants that say so; else everybody's.",
        group="policy",
    )
    what_if_cells_max: int = setting(
        20_000,
        "Decisions that one what-if compares for everybody; callers alike are one. It says when there were more.",
        group="policy",
        minimum=1,
    )
    what_if_calls_max: int = setting(
        10_000, "Logged calls that one what-if or report looks at, the newest first.", group="policy", minimum=1
    )

    # -- identity
    jwks_refresh_s: int = setting(300, "Age at which an issuer's keys are fetched again.", group="identity", minimum=5)
    jwks_refetch_min_s: int = setting(
        10, "Shortest time between two fetches that unknown key ids cause.", group="identity", minimum=1
    )
    jwks_age_max_s: int = setting(
        86_400, "Oldest keys of an issuer that are still believed.", group="identity", minimum=60
    )
    jwks_bytes_max: int = setting(262_144, "Largest key set taken from an issuer.", group="identity", minimum=1024)
    jwks_keys_max: int = setting(64, "Most keys taken from one issuer's key set.", group="identity", minimum=1)
    jwks_timeout_ms: int = setting(5000, "Longest fetch of an issuer's key set.", group="identity", minimum=1)
    jwks_hosts_private: str = setting(
        "",
        "Hosts, comma-separated, from which key sets may be fetched although their address is private or loopback.",
        group="identity",
    )
    jwks_ca_file: str = setting(
        "", "CA bundle (PEM) that issuers' certificates are checked with; empty: the system's.", group="identity"
    )
    jwt_bytes_max: int = setting(16_384, "Largest bearer token looked at.", group="identity", minimum=256)
    jwt_leeway_s: int = setting(30, "Clock difference allowed in a token's times.", group="identity", minimum=0)
    jwt_cache_max: int = setting(8192, "Verified tokens a worker remembers.", group="identity", minimum=0)

    # -- sources
    load_interval_ms: int = setting(500, "How often an engine's load is read.", group="sources", minimum=50)
    offers_followed_max: int = setting(
        4096, "Models at sources whose time to first byte a worker follows.", group="sources", minimum=1
    )
    load_age_ms_max: int = setting(2000, "Age at which a load reading counts as unknown.", group="sources", minimum=50)
    health_failures_max: int = setting(
        3, "Probes in a row that must fail before a source is down.", group="sources", minimum=1
    )
    probe_timeout_ms: int = setting(2000, "Longest wait for a load or health reading.", group="sources", minimum=1)
    probe_bytes_max: int = setting(4_000_000, "Largest probe answer read.", group="sources", minimum=1024)
    discovery_interval_s: int = setting(
        60, "How often a source's models and version are looked at again.", group="sources", minimum=1
    )
    discovery_timeout_ms: int = setting(
        5000, "Longest wait for a source when its models are discovered.", group="sources", minimum=1
    )
    models_per_source_max: int = setting(1000, "Most models taken from one source.", group="sources", minimum=1)
    credential_check_ms: int = setting(
        5000, "How often credential and certificate files are looked at for a change.", group="sources", minimum=100
    )
    engine_start_timeout_s: int = setting(
        1800,
        "Longest time a managed engine may take to become ready; then it is started again.",
        group="sources",
        minimum=1,
    )
    engine_restarts_max: int = setting(
        5,
        "Restarts of a managed engine within `engine_restart_window_s`; after one more failure it is given up.",
        group="sources",
        minimum=0,
    )
    engine_restart_window_s: int = setting(
        600, "Time over which restarts of a managed engine are counted.", group="sources", minimum=1
    )
    engine_backoff_ms: int = setting(
        500, "Pause before a managed engine is started again; it doubles with each restart.", group="sources", minimum=1
    )
    engine_backoff_ms_max: int = setting(
        30_000, "Longest pause before a managed engine is started again.", group="sources", minimum=1
    )
    engine_health_timeout_ms: int = setting(
        10_000, "Longest wait for a managed engine's word that it is well.", group="sources", minimum=1
    )
    engine_health_failures_max: int = setting(
        6, "Such waits in a row that must fail before a managed engine is started again.", group="sources", minimum=1
    )
    engine_report_s: int = setting(
        5, "How often the supervisor of an engine reports, besides at each change.", group="sources", minimum=1
    )
    engine_silent_s: int = setting(
        20, "Silence of a supervisor after which its engine counts as lost.", group="sources", minimum=2
    )
    engine_log_bytes_max: int = setting(
        10_000_000,
        "Size at which the log of a managed engine is closed and a new one begun.",
        group="sources",
        minimum=4096,
    )
    engine_logs_max: int = setting(5, "Closed logs kept of a managed engine.", group="sources", minimum=0)
    sources_max: int = setting(512, "Most sources in a snapshot.", group="sources", minimum=1)

    # -- metering
    energy_sample_ms: int = setting(1000, "How often energy meters of sources are read.", group="metering", minimum=100)
    carbon_factors_file: str = setting(
        "", "TOML file with grams of CO2 equivalent per kilowatt-hour by region; empty: none.", group="metering"
    )

    # -- budgets
    budgets_max: int = setting(1000, "Most budgets of a tenant.", group="budgets", minimum=1)
    lease_wait_ms: int = setting(
        1000,
        "Longest wait of a call for a share of a budget near its end; then the call is refused.",
        group="budgets",
        minimum=1,
    )
    lease_retry_ms: int = setting(
        1000,
        "How long a worker takes a refused share of a budget for an answer.",
        group="budgets",
        minimum=1,
    )
    lease_idle_s: int = setting(
        10, "A worker gives back its share of a budget that it has not used for this long.", group="budgets", minimum=1
    )
    lease_recall_ms: int = setting(
        250, "How long a node waits for its workers when another needs their shares.", group="budgets", minimum=10
    )

    # -- limits
    limit_slots: int = setting(
        65_536, "Keys, principals and teams whose limits one node counts at a time.", group="limits", minimum=64
    )
    limit_lock_wait_ms: int = setting(
        100,
        "Longest wait for counters that another worker holds; then the call is refused.",
        group="limits",
        minimum=1,
    )

    # -- control
    control_host: str = setting("127.0.0.1", "Address the admin API listens on.", group="control")
    control_port: int = setting(8081, "Port the admin API listens on; 0: any free one.", group="control", minimum=0)
    console_idle_ms: int = setting(
        1_800_000, "How long a console session may be unused before it ends.", group="control", minimum=60_000
    )
    console_session_ms: int = setting(
        36_000_000, "How long a console session lasts at most.", group="control", minimum=60_000
    )
    console_url: str = setting(
        "",
        "Where browsers reach the console, as `https://interlock.example.com`; empty: as each request names its host.",
        group="control",
    )
    control_tls_cert_file: str = setting(
        "", "Certificate chain of the admin API (PEM); empty: no TLS.", group="control"
    )
    control_tls_key_file: str = setting("", "Private key of that certificate (PEM).", group="control")
    control_ca_file: str = setting(
        "", "CA bundle (PEM) that the command line checks an admin API's certificate with.", group="control"
    )
    admin_body_bytes_max: int = setting(4_000_000, "Largest admin request body.", group="control", minimum=1024)
    page_size_max: int = setting(500, "Most rows of an admin listing.", group="control", minimum=1)

    # -- telemetry
    metrics_interval_ms: int = setting(
        1000, "How often a worker publishes its counters to its node.", group="telemetry", minimum=50
    )
    metrics_series_max: int = setting(
        2000, "Series of one metric family per process; more are counted together.", group="telemetry", minimum=16
    )
    log_event_lines_max: int = setting(
        60, "Log lines of one event per minute and process; more are counted.", group="telemetry", minimum=1
    )
    log_queue_max: int = setting(
        4096, "Log lines that wait to be written; more are counted.", group="telemetry", minimum=1
    )
    metrics_key: str = setting(
        "", "Bearer token that /metrics asks for; empty: open to whoever reaches the port.", group="telemetry"
    )
    otlp_endpoint: str = setting(
        "", "OpenTelemetry collector (HTTP) that spans are sent to; empty: none.", group="telemetry"
    )
    otlp_queue_max: int = setting(
        2048, "Spans that wait to be sent; more are dropped and counted.", group="telemetry", minimum=1
    )

    def home_path(self, *parts: str) -> Path:
        """A path under the home folder, with `~` expanded."""
        return Path(self.home).expanduser().joinpath(*parts)

    def pepper_path(self) -> Path:
        """The file of the secret that API keys are hashed under; its content without surrounding white space counts."""
        return Path(self.pepper_file).expanduser() if self.pepper_file else self.home_path("secrets", "pepper")

    def ledger_key_path(self) -> Path:
        """The file of the master key of recorded contents: 64 hexadecimal characters."""
        return (
            Path(self.ledger_key_file).expanduser() if self.ledger_key_file else self.home_path("secrets", "ledger_key")
        )

    def ledger_signing_key_path(self) -> Path:
        """The file of the key that checkpoints are signed with: 64 hexadecimal characters."""
        given = self.ledger_signing_key_file
        return Path(given).expanduser() if given else self.home_path("secrets", "ledger_signing_key")

    def snapshot_age_max_s(self, data_class: int) -> int:
        """Oldest confirmed snapshot, in seconds, on which a call of this data class may be served."""
        return (
            self.snapshot_age_max_s_public,
            self.snapshot_age_max_s_internal,
            self.snapshot_age_max_s_confidential,
            self.snapshot_age_max_s_restricted,
        )[data_class]


SECRET_SETTINGS = frozenset({"database_url", "metrics_key"})
"""Settings whose values are never printed."""


def load(env: Mapping[str, str] | None = None, *, home: str | None = None, **overrides: Any) -> Settings:
    """Settings from defaults, `interlock.toml` in the home folder, and the environment; `overrides` win over all.

    Raises ConfigError naming the setting, where it was set and what is wrong.
    """
    env = os.environ if env is None else env
    values: dict[str, Any] = {}
    chosen_home = home or env.get(ENV_PREFIX + "HOME") or "~/.interlock"
    file = Path(chosen_home).expanduser() / "interlock.toml"
    if file.exists():
        values.update(_from_file(file))
    values["home"] = chosen_home
    for field in dataclasses.fields(Settings):
        text = env.get(ENV_PREFIX + field.name.upper())
        if text is not None and field.name != "home":
            values[field.name] = _coerce(field, text, f"environment variable {ENV_PREFIX}{field.name.upper()}")
    values.update({k: v for k, v in overrides.items() if v is not None})
    return Settings(**values)


def _from_file(file: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ConfigError(f"{file}: cannot be read as TOML: {e}", param=str(file)) from None
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    values = {}
    for name, value in document.items():
        if name not in fields or name == "home":
            raise ConfigError(f"{file}: unknown setting {name!r}; docs/settings.md lists them all", param=name)
        values[name] = _coerce(fields[name], value, str(file))
    return values


def _coerce(field: dataclasses.Field[Any], value: Any, where: str) -> Any:
    wanted = type(field.default)
    if wanted is int:
        try:
            if isinstance(value, bool):
                raise ValueError
            number = int(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{where}: {field.name} must be a whole number", param=field.name) from None
        minimum = field.metadata["minimum"]
        if minimum is not None and number < minimum:
            raise ConfigError(f"{where}: {field.name} must be at least {minimum}", param=field.name)
        maximum = field.metadata["maximum"]
        if maximum is not None and number > maximum:
            raise ConfigError(f"{where}: {field.name} must be at most {maximum}", param=field.name)
        return number
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {field.name} must be text", param=field.name)
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(f"{where}: {field.name} must be one of {', '.join(choices)}", param=field.name)
    return value
