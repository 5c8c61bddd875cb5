"""Checks of what the admin API knows: sources, nodes, versions, clocks, the ledger, keys and issuers. Pure."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from interlock.control.diagnosis import ControlFacts
from interlock.control.doctor.findings import Finding, listed
from interlock.control.services.router_judges import WORDS

NODE_SILENT_S = 60.0
BEHIND_MAX = 5
"""Versions that a node may be behind: a snapshot takes a moment to arrive."""
LAG_S_MAX = 60.0
INBOX_ROWS_MAX = 10_000
LEARNER_SILENT_S = 300.0
LEARNER_BEHIND_MAX = 20_000
"""Entries that the learner may not have read yet: what a busy hour leaves it."""
CLOCK_WEAK_S = 2.0
"""Clocks that are further apart make the order of what two machines recorded hard to read."""


def loopback(host: str) -> bool:
    """Whether an address that something listens on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def open_sources(facts: ControlFacts) -> Iterator[Finding]:
    """Sources that work for whoever reaches them: a way around every rule and every record."""
    for source in facts.sources:
        if source.answers != "open":
            continue
        without = "" if source.credential else ", and none is configured"
        yield Finding(
            "wrong",
            "open_source",
            f"source {source.name} at {source.url} answers without Interlock's credential{without}:"
            " whoever reaches it goes around Interlock",
            "give the engine a key (vLLM: VLLM_API_KEY in its environment; llama.cpp: --api-key-file) and name it as"
            " the source's credential; an engine that knows no keys must listen where only gateways reach it",
        )


def failing_sources(facts: ControlFacts) -> Iterator[Finding]:
    """Sources that do not answer, engines that were given up, and sources without anything to offer."""
    for source in facts.sources:
        if source.engine_state in ("failed", "lost"):
            yield Finding(
                "wrong",
                "engine",
                f"the engine of source {source.name} is {source.engine_state}",
                f"`interlock source show {source.name}` names its log; start it again with `interlock source run`",
            )
        elif source.error and not source.engine_state:
            yield Finding(
                "wrong",
                "source_failing",
                f"source {source.name} cannot be asked for its models: {source.error}",
                f"`interlock source refresh {source.name}` once it is mended; `interlock source drain` until then",
            )
        elif not source.models:
            yield Finding(
                "weak",
                "source_empty",
                f"source {source.name} offers no model",
                "declare its models, or load one there",
            )
        if source.drained:
            yield Finding(
                "weak",
                "source_drained",
                f"source {source.name} is drained",
                f"`interlock source undrain {source.name}` when its maintenance is over",
            )


def unused_grants(facts: ControlFacts) -> Iterator[Finding]:
    """Sources that nobody may be given, grants that nobody used, roles that nobody can use."""
    for source in facts.sources:
        if not source.granted_to and not source.owner:
            yield Finding(
                "weak",
                "source_not_granted",
                f"source {source.name} is granted to no tenant",
                "name tenants in its granted_to, or remove it",
            )
        if source.unused_by:
            yield Finding(
                "weak",
                "grant_unused",
                f"source {source.name} is granted to {listed(source.unused_by)} without a call in 30 days",
                "take back what is not needed",
            )
    if facts.idle_roles:
        yield Finding(
            "weak",
            "role_unused",
            f"administrative roles of principals without a key for them: {listed(facts.idle_roles)}",
            "take back what is not needed; who signs in by an identity provider needs no role of their own",
        )


def clocks(facts: ControlFacts) -> Iterator[Finding]:
    """Clocks of control, nodes and database that are apart."""
    off = facts.clock_s - facts.database_clock_s
    known = [("the control process", off)]
    known += [
        (f"node {n.name}", n.clock_off_s) for n in facts.nodes if n.clock_off_s is not None and _alive(n.seen_s_ago)
    ]
    for who, seconds in known:
        if abs(seconds) > CLOCK_WEAK_S:
            yield clock_finding(who, "the database", seconds, facts.ledger_clock_skew_s)


def clock_finding(who: str, whom: str, seconds: float, allowed_s: float) -> Finding:
    """A clock is ahead of another one, or behind it (negative)."""
    way = "ahead of" if seconds > 0 else "behind"
    return Finding(
        "wrong" if abs(seconds) > allowed_s else "weak",
        "clock",
        f"the clock of {who} is {abs(seconds):.1f} s {way} that of {whom}",
        "let all machines keep their time with the same source (chrony, systemd-timesyncd); exports of the ledger allow"
        f" for {allowed_s:g} s (ledger_clock_skew_ms)",
    )


def versions(facts: ControlFacts) -> Iterator[Finding]:
    """Nodes, schema and engines of other versions than they should be."""
    if facts.schema != facts.schema_wanted:
        yield Finding(
            "wrong",
            "schema",
            f"the database has schema {facts.schema or 'none'}, and this version works with {facts.schema_wanted}",
            "bring all control processes to one version; the newest one migrates at its start",
        )
    others = [f"{n.name} ({n.version})" for n in facts.nodes if n.version != facts.version and _alive(n.seen_s_ago)]
    if others:
        yield Finding(
            "wrong",
            "node_version",
            f"control runs version {facts.version}, and other versions run on {listed(others)}",
            "finish the upgrade: control first, then the nodes one by one",
        )
    engines: dict[str, dict[str, str]] = defaultdict(dict)
    for source in facts.sources:
        for model in source.models:
            if source.engine_version and not source.drained:
                engines[model][source.name] = f"{source.engine} {source.engine_version}"
    told = set()
    for model, by_source in sorted(engines.items()):
        kinds = {engine.split(" ")[0] for engine in by_source.values()}
        words = listed(f"{name} ({engine})" for name, engine in sorted(by_source.items()))
        if len(set(by_source.values())) > len(kinds) and words not in told:
            told.add(words)
            yield Finding(
                "weak",
                "engine_version",
                f"model {model} is served by different versions of an engine: {words}",
                "bring them to one version: the same question may be answered in another way",
            )


def nodes(facts: ControlFacts) -> Iterator[Finding]:
    """Nodes that are silent, or run on an old snapshot; a snapshot that cannot be compiled."""
    for node in facts.nodes:
        if not _alive(node.seen_s_ago):
            yield Finding(
                "wrong",
                "node_silent",
                f"node {node.name} was not heard of for {node.seen_s_ago:.0f} s",
                "start it; if it never comes back, `interlock ledger retire-node` gives up what it has not shipped",
            )
        elif node.behind > BEHIND_MAX:
            yield Finding(
                "wrong",
                "node_behind",
                f"node {node.name} runs {node.behind} versions behind the newest snapshot",
                "its log says why it keeps the old one",
            )
    if not facts.nodes:
        yield Finding("wrong", "node_none", "no gateway has ever been heard of", "start `interlock gateway`")
    if facts.compiler_failure:
        yield Finding(
            "wrong",
            "compiler",
            f"the snapshot cannot be compiled: {facts.compiler_failure}",
            "changes reach no gateway until that is mended",
        )


def ledger(facts: ControlFacts) -> Iterator[Finding]:
    """Records that do not arrive in the ledger, or find no place there."""
    behind = [f"{lag.node} ({lag.behind_s:.0f} s)" for lag in facts.lags if lag.behind_s > LAG_S_MAX]
    if behind:
        yield Finding(
            "wrong",
            "ledger_backlog",
            f"records wait on nodes for the ledger: {listed(behind)}",
            "see that these nodes run and reach the database; their logs say what their shippers meet",
        )
    if facts.inbox_rows > INBOX_ROWS_MAX:
        yield Finding(
            "wrong",
            "ledger_inbox",
            f"{facts.inbox_rows} entries wait for their place in the ledger",
            "see the control processes' logs for what the sequencer meets",
        )
    for failing, what in ((facts.ledger_failing, "sequencer"), (facts.retention_failing, "retention")):
        if failing:
            yield Finding("wrong", "ledger_failing", f"the {what} of the ledger fails", "the control's log says why")


def keys(facts: ControlFacts) -> Iterator[Finding]:
    """Keys without an end."""
    if not facts.keys_without_end:
        return
    admins = [f"{key.tenant}/{key.name}" for key in facts.keys if key.admin]
    others = [f"{key.tenant}/{key.name}" for key in facts.keys if not key.admin]
    first = f"; {listed(admins)} administer" if admins else ""
    yield Finding(
        "weak",
        "key_without_end",
        f"keys without an end ({facts.keys_without_end}): {listed(admins + others)}{first}",
        "`interlock key rotate NAME -t TENANT`, with expires_in_days in the configuration",
    )


def issuers(facts: ControlFacts) -> Iterator[Finding]:
    """Issuers whose keys cannot be fetched."""
    for issuer in facts.issuers:
        if issuer.error:
            yield Finding(
                "wrong",
                "issuer",
                f"the keys of issuer {issuer.issuer} (tenant {issuer.tenant}) cannot be fetched: {issuer.error}",
                "its tokens are believed until jwks_age_max_s; see its jwks_url, jwks_ca_file and jwks_hosts_private",
            )


def exposure(facts: ControlFacts) -> Iterator[Finding]:
    """An admin API that can be reached from elsewhere without TLS, or whose metrics can."""
    if loopback(facts.control_host):
        return
    if not facts.control_tls:
        yield Finding(
            "wrong",
            "control_tls",
            f"the admin API listens on {facts.control_host} without TLS: administrators' keys cross the network",
            "set control_tls_cert_file and control_tls_key_file, or listen on 127.0.0.1 behind what terminates TLS",
        )
    if not facts.metrics_key:
        yield Finding(
            "wrong", "control_metrics", f"/metrics of the admin API is open on {facts.control_host}", "set metrics_key"
        )


def recording(facts: ControlFacts) -> Iterator[Finding]:
    """Tenants of whose calls less than everything is kept."""
    if facts.not_recorded:
        yield Finding(
            "weak",
            "recording",
            f"contents of calls are not kept in full for {listed(facts.not_recorded)}",
            "see that this is meant (docs/retention.md)",
        )


def learner(facts: ControlFacts) -> Iterator[Finding]:
    """A learner that is silent, or behind, while there is something to learn. Routing goes on with what it knows."""
    if not facts.learning_tenants:
        return
    known = facts.learner
    if known is None or known.seen_s_ago > LEARNER_SILENT_S:
        since = "was never heard of" if known is None else f"was not heard of for {known.seen_s_ago:.0f} s"
        yield Finding(
            "weak",
            "learner_silent",
            f"the router is to learn of {facts.learning_tenants} tenants, and the learner {since}",
            "run `interlock worker`, or turn learning off (setting learning, or a tenant's learning)",
        )
    elif known.behind > LEARNER_BEHIND_MAX:
        yield Finding(
            "weak",
            "learner_behind",
            f"the learner on {known.host} has {known.behind} entries of the ledger still to read",
            "give it more of a processor; what it publishes meanwhile rests on older calls",
        )


def judges(facts: ControlFacts) -> Iterator[Finding]:
    """Judges of answers that are asked, and whose verdicts count for nothing."""
    for found in facts.judges:
        of = "" if found.asked == found.judge else f", asked as {found.asked},"
        yield Finding(
            "weak",
            "judge_not_trusted",
            f"the judge {found.judge}{of} of tenant {found.tenant} is not trusted, by its last {found.pairs} answers of"
            f" which somebody else spoke too: {WORDS.get(found.why, found.why)}; what it says counts for nothing",
            f"name another model as judging.model of tenant {found.tenant}; to stop paying for it, set share_milli and"
            " challenger_milli to 0 or leave judging out (docs/judging.md)",
        )


def _alive(seen_s_ago: float) -> bool:
    return seen_s_ago <= NODE_SILENT_S


CHECKS: tuple[Callable[[ControlFacts], Iterable[Finding]], ...] = (
    open_sources,
    failing_sources,
    unused_grants,
    clocks,
    versions,
    nodes,
    ledger,
    keys,
    issuers,
    exposure,
    recording,
    learner,
    judges,
)
