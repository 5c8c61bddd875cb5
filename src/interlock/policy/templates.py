"""Templates for the usual policies: parameters in, Cedar text and a sentence out.

A rendered policy is ordinary Cedar, stored and shown as such. Every value is checked and quoted, so that no name can
become part of the policy's logic.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from interlock.errors import ConfigError
from interlock.policy.schema import ACTION_WORDS, DATA_CLASSES, FIELD_ACTIONS, INFER, check_id
from interlock.policy.text import entity, pattern, quote

NAME_CHARACTERS_MAX = 256
LIST_MAX = 200
"""Most entries of a list parameter."""
PATTERNS_MAX = 30
"""Most entries with a `*` in a list of models; each is a test of its own in the policy's condition."""


class RenderedPolicy(NamedTuple):
    """A policy made from a template: Cedar text, and what it says in one sentence without a full stop."""

    cedar: str
    words: str


class Parameter(NamedTuple):
    """A parameter of a template: what it means, whether it must be given, and what it holds.

    `kind`: one "team" (or "*"), "data_class", "usd", "instant" or "weekly" window; or a list: "teams", "models",
    "sources", "regions", "features".
    """

    words: str
    required: bool
    kind: str


class Template(NamedTuple):
    """A template as shown to people: what it is for, and its parameters by name."""

    words: str
    parameters: Mapping[str, Parameter]


TEMPLATES: Mapping[str, Template] = {
    "team-may-use-models": Template(
        "A team may call these models, with these kinds of request fields.",
        {
            "team": Parameter('name of the team; "*": everyone in the tenant', required=True, kind="team"),
            "models": Parameter(
                'list of model names, `source::model` pins, or patterns with `*`; "*": every model',
                required=True,
                kind="models",
            ),
            "features": Parameter(
                f"list of field actions allowed too: {', '.join(FIELD_ACTIONS)}", required=False, kind="features"
            ),
        },
    ),
    "data-class-stays-on-prem": Template(
        "Data of this class and above is never sent to a source that is not on the premises.",
        {
            "data_class": Parameter(
                f"lowest class that must stay: {', '.join(DATA_CLASSES)}", required=True, kind="data_class"
            ),
            "teams": Parameter("list of teams it holds for; absent: everyone", required=False, kind="teams"),
        },
    ),
    "region-stays-in-region": Template(
        "Calls go only to sources in these regions. A source without a region label is in none of them.",
        {
            "regions": Parameter("list of region labels that are allowed", required=True, kind="regions"),
            "teams": Parameter("list of teams it holds for; absent: everyone", required=False, kind="teams"),
        },
    ),
    "cloud-only-for-public-data": Template(
        "Sources that are not on the premises get public data only.",
        {"teams": Parameter("list of teams it holds for; absent: everyone", required=False, kind="teams")},
    ),
    "agents-need-a-delegator": Template(
        "An agent calls only while it acts for somebody.",
        {
            "teams": Parameter(
                "list of teams whose agents it holds for; absent: every agent", required=False, kind="teams"
            )
        },
    ),
    "cost-ceiling-per-call": Template(
        "No call may cost more than this at most, by the bounds of its prompt and answer and the source's price.",
        {
            "usd": Parameter("US dollars, a decimal number", required=True, kind="usd"),
            "teams": Parameter("list of teams it holds for; absent: everyone", required=False, kind="teams"),
            "models": Parameter(
                "list of models as in team-may-use-models; absent: every model", required=False, kind="models"
            ),
        },
    ),
    "maintenance-window": Template(
        "Within this time nothing is sent there: once, or every week.",
        {
            "from": Parameter(
                "when it begins: ISO 8601 date and time; UTC unless it says otherwise", required=False, kind="instant"
            ),
            "to": Parameter("when it ends", required=False, kind="instant"),
            "weekly": Parameter(
                'instead of these, every week: "sat 22:00 - sun 02:00", UTC', required=False, kind="weekly"
            ),
            "sources": Parameter("list of sources; absent: every source", required=False, kind="sources"),
            "models": Parameter(
                "list of models as in team-may-use-models; absent: every model", required=False, kind="models"
            ),
        },
    ),
}


def render(template: str, parameters: Mapping[str, object], *, policy_id: str | None = None) -> RenderedPolicy:
    """The policy that a template makes of its parameters. `policy_id` goes into the `@id` annotation.

    Raises ConfigError naming the template, the parameter and what is wrong with it.
    """
    known = TEMPLATES.get(template)
    if known is None:
        raise ConfigError(
            f"there is no policy template {template!r}; there are {', '.join(sorted(TEMPLATES))}", param="template"
        )
    if policy_id is not None:
        check_id(policy_id)
    for name in parameters:
        if name not in known.parameters:
            raise _wrong(template, name, f"is not a parameter; there are {', '.join(known.parameters)}")
    for name, parameter in known.parameters.items():
        if parameter.required and parameters.get(name) is None:
            raise _wrong(template, name, f"is missing: {parameter.words}")
    body, words = _RENDERERS[template](template, parameters)
    head = f"@id({quote(policy_id or template)})\n@template({quote(template)})\n@words({quote(words)})\n"
    return RenderedPolicy(head + body, words)


def _wrong(template: str, name: str, what: str) -> ConfigError:
    return ConfigError(f"policy template {template!r}: {name} {what}", param=f"parameters.{name}")


def _name(template: str, parameter: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(template, parameter, f"must be a name, not {value!r}")
    if len(value) > NAME_CHARACTERS_MAX:
        raise _wrong(template, parameter, f"holds a name of more than {NAME_CHARACTERS_MAX} characters")
    if not value.isprintable():
        raise _wrong(template, parameter, f"holds a name with unprintable characters: {value!r}")
    return value


def _names(template: str, parameter: str, value: object) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise _wrong(template, parameter, "must be a list with at least one name")
    if len(value) > LIST_MAX:
        raise _wrong(template, parameter, f"has more than {LIST_MAX} entries: use a pattern or several policies")
    return list(dict.fromkeys(_name(template, parameter, entry) for entry in value))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _who(template: str, parameters: Mapping[str, object]) -> tuple[str, str, str]:
    """(principal scope, extra condition or "", words) of an optional `teams` parameter."""
    if parameters.get("teams") is None:
        return "principal", "", "everyone"
    teams = _names(template, "teams", parameters["teams"])
    words = f"team{'s' if len(teams) > 1 else ''} {_listed(teams)}"
    if len(teams) == 1:
        return f"principal in {entity('Team', teams[0])}", "", words
    return "principal", f"principal in [{', '.join(entity('Team', t) for t in teams)}]", words


def _conditions(*parts: str) -> str:
    return "\nwhen { " + " && ".join(p for p in parts if p) + " };\n"


def _team_may_use_models(template: str, parameters: Mapping[str, object]) -> tuple[str, str]:
    team = _name(template, "team", parameters["team"])
    features = parameters.get("features")
    actions = [INFER]
    if features is not None and features != []:
        for feature in _names(template, "features", features):
            if feature not in FIELD_ACTIONS:
                raise _wrong(template, "features", f"knows no {feature!r}; there are {', '.join(FIELD_ACTIONS)}")
            actions.append(feature)
    models = parameters["models"]
    names = ["*"] if models == "*" else _names(template, "models", models)
    if sum("*" in name for name in names) > PATTERNS_MAX:
        raise _wrong(template, "models", f"has more than {PATTERNS_MAX} patterns: use several policies")
    tests, model_words = _models(names)
    principal = "principal" if team == "*" else f"principal in {entity('Team', team)}"
    named = ", ".join(entity("Action", a) for a in actions)
    cedar = f"permit (\n  {principal},\n  action in [{named}],\n  resource\n)"
    cedar += _conditions(tests) if tests else ";\n"
    words = f"{'everyone' if team == '*' else 'team ' + team} may call {model_words}"
    if len(actions) > 1:
        words += ", and " + _listed([ACTION_WORDS[a].rsplit(" ", 1)[0] for a in actions[1:]])
    return cedar, words


def _models(models: list[str]) -> tuple[str, str]:
    """A condition that holds for these models ("" for every one), and words."""
    if "*" in models:
        return "", "every model"
    plain = [m for m in models if "*" not in m and "::" not in m]
    pins = [m for m in models if "*" not in m and "::" in m]
    tests = []
    if plain:
        tests.append(f"resource in [{', '.join(entity('Model', m) for m in plain)}]")
    if pins:
        tests.append(f"resource in [{', '.join(entity('Offer', m) for m in pins)}]")
    for wild in (m for m in models if "*" in m):
        source, separator, model = wild.partition("::")
        if separator:
            tests.append(f"(resource.source like {pattern(source)} && resource.model like {pattern(model)})")
        else:
            tests.append(f"resource.model like {pattern(wild)}")
    return (tests[0] if len(tests) == 1 else "(" + " || ".join(tests) + ")"), _listed(models)


def _data_class_stays_on_prem(template: str, parameters: Mapping[str, object]) -> tuple[str, str]:
    value = parameters["data_class"]
    if not isinstance(value, str) or value not in DATA_CLASSES:
        raise _wrong(template, "data_class", f"must be one of {', '.join(DATA_CLASSES)}, not {value!r}")
    level = DATA_CLASSES.index(value)
    scope, extra, who = _who(template, parameters)
    cedar = f"forbid (\n  {scope},\n  action,\n  resource\n)"
    cedar += _conditions(extra, f"context.data_class >= {level}", "!resource.on_prem")
    above = "" if level == len(DATA_CLASSES) - 1 else " and above"
    return cedar, f"{DATA_CLASSES[level]} data{above} of {who} stays on the premises"


def _region_stays_in_region(template: str, parameters: Mapping[str, object]) -> tuple[str, str]:
    regions = _names(template, "regions", parameters["regions"])
    scope, extra, who = _who(template, parameters)
    cedar = f"forbid (\n  {scope},\n  action,\n  resource\n)"
    cedar += _conditions(extra, f"!([{', '.join(quote(r) for r in regions)}].contains(resource.region))")
    return cedar, f"calls of {who} stay in {'region' if len(regions) == 1 else 'regions'} {_listed(regions)}"


def _cloud_only_for_public_data(_template: str, parameters: Mapping[str, object]) -> tuple[str, str]:
    scope, extra, who = _who(_template, parameters)
    cedar = f"forbid (\n  {scope},\n  action,\n  resource\n)"
    cedar += _conditions(extra, "context.data_class > 0", "!resource.on_prem")
    return cedar, f"only public data of {who} leaves the premises"


def _agents_need_a_delegator(template: str, parameters: Mapping[str, object]) -> tuple[str, str]:
    _, _, who = _who(template, parameters)
    teams = _names(template, "teams", parameters["teams"]) if parameters.get("teams") is not None else []
    extra = f"principal in [{', '.join(entity('Team', t) for t in teams)}]" if teams else ""
    cedar = "forbid (\n  principal is Agent,\n  action,\n  resource\n)"
    cedar += _conditions(extra, "!context.delegated")
    return cedar, f"agents{f' of {who}' if teams else ''} call only for somebody"


def _cost_ceiling_per_call(template: str, parameters: Mapping[str, object]) -> tuple[str, str]:
    given = parameters["usd"]
    try:
        if isinstance(given, bool) or not isinstance(given, int | float | str):
            raise ValueError
        nusd = Decimal(str(given)) * 1_000_000_000
        if not nusd.is_finite() or nusd != nusd.to_integral_value() or not 0 <= nusd <= COST_MAX:
            raise ValueError
    except (ValueError, ArithmeticError):
        raise _wrong(
            template, "usd", f"must be US dollars from 0 to a million, to the billionth, not {given!r}"
        ) from None
    scope, extra, who = _who(template, parameters)
    tests, model_words = _some_models(template, parameters)
    cedar = f"forbid (\n  {scope},\n  action,\n  resource\n)"
    cedar += _conditions(extra, f"context.cost_nusd > {int(nusd)}", tests)
    return cedar, f"no call of {who} to {model_words} may cost more than {given} USD"


def _maintenance_window(template: str, parameters: Mapping[str, object]) -> tuple[str, str]:
    weekly = parameters.get("weekly")
    if (weekly is None) == (parameters.get("from") is None or parameters.get("to") is None):
        raise _wrong(template, "weekly", "or both from and to must be given, and not all of them")
    if weekly is not None:
        match = _WEEKLY.fullmatch(weekly.strip().lower()) if isinstance(weekly, str) else None
        if match is None or parameters.get("from") is not None or parameters.get("to") is not None:
            raise _wrong(template, "weekly", f'is written "sat 22:00 - sun 02:00", without from and to; not {weekly!r}')
        first, last = (_minute_of(*match.groups()[i : i + 3]) for i in (0, 3))
        if first == last:
            raise _wrong(template, "weekly", "must not end where it begins")
        sign = "&&" if first < last else "||"
        when = f"(context.week_minute >= {first} {sign} context.week_minute < {last})"
        words = f"every week {weekly} UTC"
    else:
        try:
            first, last = instant(parameters["from"]), instant(parameters["to"])
        except ValueError as e:
            raise _wrong(template, "from", f"and to: each {e}") from None
        if first >= last:
            raise _wrong(template, "to", "must be after from")
        when = f"context.time_s >= {first} && context.time_s < {last}"
        words = f"from {parameters['from']} to {parameters['to']}"
    tests, model_words = _some_models(template, parameters)
    where, source_words = "", ""
    if parameters.get("sources") is not None:
        sources = _names(template, "sources", parameters["sources"])
        where = f"resource in [{', '.join(entity('Source', s) for s in sources)}]"
        source_words = f" at {_listed(sources)}"
    cedar = "forbid (\n  principal,\n  action,\n  resource\n)" + _conditions(when, where, tests)
    return cedar, f"{model_words}{source_words} is closed for maintenance {words}"


def _some_models(template: str, parameters: Mapping[str, object]) -> tuple[str, str]:
    """(condition, words) of an optional `models` parameter."""
    if parameters.get("models") is None or parameters["models"] == "*":
        return "", "every model"
    return _models(_names(template, "models", parameters["models"]))


def _minute_of(day: str, hour: str, minute: str) -> int:
    return (_DAYS.index(day) * 24 + int(hour)) * 60 + int(minute)


def instant(given: object) -> int:
    """Unix seconds of an ISO 8601 date and time, in UTC unless it says otherwise. Raises ValueError."""
    try:
        at = datetime.datetime.fromisoformat(given) if isinstance(given, str) else None
    except ValueError:
        at = None
    if at is None:
        raise ValueError(f"must be an ISO 8601 date and time, not {given!r}")
    return int((at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)).timestamp())


_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_POINT = rf"({'|'.join(_DAYS)}) ([01][0-9]|2[0-3]):([0-5][0-9])"
_WEEKLY = re.compile(rf"{_POINT} ?- ?{_POINT}")
COST_MAX = 10**15
"""A million dollars, in nano-USD: no ceiling is higher."""

_RENDERERS: Mapping[str, Callable[[str, Mapping[str, object]], tuple[str, str]]] = {
    "team-may-use-models": _team_may_use_models,
    "data-class-stays-on-prem": _data_class_stays_on_prem,
    "region-stays-in-region": _region_stays_in_region,
    "cloud-only-for-public-data": _cloud_only_for_public_data,
    "agents-need-a-delegator": _agents_need_a_delegator,
    "cost-ceiling-per-call": _cost_ceiling_per_call,
    "maintenance-window": _maintenance_window,
}
