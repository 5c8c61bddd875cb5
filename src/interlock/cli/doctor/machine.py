"""Checks of this machine's home, settings, disk and files. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from interlock.cli.doctor.facts import MachineFacts
from interlock.control.doctor.cluster import CLOCK_WEAK_S, clock_finding, loopback
from interlock.control.doctor.findings import Finding

DAY_S = 86_400
RENEW_S = 14 * DAY_S
"""Before a certificate ends it should have been renewed for this long."""
STREAM_SYNC_MS_MAX = 1000
LOG_FULL_PERCENT = 80
FREE_BYTES_MIN = 64 << 20
METRICS_KEY_CHARS_MIN = 16


def exposure(facts: MachineFacts) -> Iterator[Finding]:
    """A gateway that can be reached from elsewhere without TLS, or whose metrics can."""
    settings = facts.settings
    if not loopback(settings.gateway_host):
        if not settings.tls_cert_file:
            yield Finding(
                "wrong",
                "gateway_tls",
                f"the gateway listens on {settings.gateway_host} without TLS: keys and prompts cross the network",
                "set tls_cert_file and tls_key_file, or listen on 127.0.0.1 behind a proxy with TLS",
            )
        if not settings.metrics_key:
            yield Finding(
                "wrong",
                "gateway_metrics",
                f"/metrics of the gateway is open on {settings.gateway_host}",
                "set metrics_key",
            )
    if 0 < len(settings.metrics_key) < METRICS_KEY_CHARS_MIN:
        yield Finding(
            "weak", "metrics_key", "metrics_key is short enough to be guessed", "make it with `openssl rand -hex 32`"
        )


def secrets(facts: MachineFacts) -> Iterator[Finding]:
    """Files that others on this machine can read."""
    for file in facts.files:
        if file.mode & 0o077:
            yield Finding(
                "wrong",
                "file_mode",
                f"{file.path} can be reached by others on this machine (mode {file.mode:04o})",
                f"chmod go= {file.path}",
            )


def certificates(facts: MachineFacts) -> Iterator[Finding]:
    """Certificates that have ended, or will soon."""
    for certificate in facts.certificates:
        where = f"{certificate.setting} ({certificate.path})"
        if certificate.left_s is None:
            yield Finding(
                "wrong", "certificate", f"{where} cannot be used: {certificate.error}", "see docs/howto-tls.md"
            )
        elif certificate.left_s <= RENEW_S:
            days = int(certificate.left_s // DAY_S)
            words = f"ends in {days} days" if certificate.left_s > 0 else f"ended {-days} days ago"
            yield Finding("wrong", "certificate", f"{where} {words}", "renew it; files are read again by themselves")


def snapshot_ages(facts: MachineFacts) -> Iterator[Finding]:
    """Ages of a snapshot that let a revoked key live for long while the database is away."""
    ages = [facts.settings.snapshot_age_max_s(data_class) for data_class in range(4)]
    if ages[3] > DAY_S:
        yield Finding(
            "weak",
            "snapshot_age",
            f"without the database, restricted calls go on for {ages[3] / DAY_S:.1f} days, with keys revoked meanwhile",
            "lower snapshot_age_max_s_restricted",
        )
    if ages != sorted(ages, reverse=True):
        yield Finding(
            "weak",
            "snapshot_age",
            "a higher data class may be served on an older snapshot than a lower one",
            "order snapshot_age_max_s_public, _internal, _confidential, _restricted from long to short",
        )


def durability(facts: MachineFacts) -> Iterator[Finding]:
    """Settings of the record log that keep less than they could."""
    settings = facts.settings
    if settings.stream_sync_ms > STREAM_SYNC_MS_MAX:
        yield Finding(
            "weak",
            "durability",
            f"a power cut loses up to {settings.stream_sync_ms} ms of the text that callers have seen",
            "lower stream_sync_ms",
        )
    if settings.log_disk_free_bytes_min < FREE_BYTES_MIN:
        yield Finding(
            "weak",
            "durability",
            "little or no disk is kept for the ends of running calls when it fills up",
            "raise log_disk_free_bytes_min",
        )


def disk(facts: MachineFacts) -> Iterator[Finding]:
    """Room for the record log, by its own limits and on the disk."""
    settings = facts.settings
    if facts.disk_free <= 2 * settings.log_disk_free_bytes_min:
        yield Finding(
            "wrong",
            "disk_full",
            f"{_mb(facts.disk_free)} are free beside the record log; below {_mb(settings.log_disk_free_bytes_min)}"
            " calls are refused",
            "make room",
        )
    if facts.log_bytes * 100 >= settings.log_disk_bytes_max * LOG_FULL_PERCENT:
        yield Finding(
            "wrong",
            "log_full",
            f"the record log uses {_mb(facts.log_bytes)} of {_mb(settings.log_disk_bytes_max)} (log_disk_bytes_max);"
            " above that calls are refused",
            "see why it is not shipped (the database?), lower log_keep_s, or raise the limit",
        )
    elif facts.log_bytes + facts.disk_free < settings.log_disk_bytes_max:
        yield Finding(
            "weak",
            "disk_small",
            f"the disk would be full before the record log has its {_mb(settings.log_disk_bytes_max)}",
            "lower log_disk_bytes_max, or give it a larger disk",
        )


def demo(facts: MachineFacts) -> Iterator[Finding]:
    """Keys that everybody who ran the demo has seen on a screen."""
    if facts.demo_keys:
        public = not loopback(facts.settings.gateway_host)
        yield Finding(
            "wrong" if public else "weak",
            "demo_keys",
            "the demo's tenants and keys are in this home",
            "revoke them, or begin with a new home: `interlock key list -t acme`",
        )


def clock(facts: MachineFacts) -> Iterator[Finding]:
    """This machine's clock against the admin API's."""
    if facts.clock_off_s is not None and abs(facts.clock_off_s) > CLOCK_WEAK_S:
        allowed_s = facts.settings.ledger_clock_skew_ms / 1000
        yield clock_finding("this machine", "the admin API", -facts.clock_off_s, allowed_s)


CHECKS: tuple[Callable[[MachineFacts], Iterable[Finding]], ...] = (
    exposure,
    secrets,
    certificates,
    snapshot_ages,
    durability,
    disk,
    demo,
    clock,
)


def others(facts: MachineFacts, control_version: str) -> Iterator[Finding]:
    """This command against the admin API that it speaks to."""
    if control_version != facts.version:
        yield Finding(
            "weak",
            "cli_version",
            f"this is version {facts.version}, the admin API {control_version}",
            "use the same one: options and answers may differ",
        )


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
