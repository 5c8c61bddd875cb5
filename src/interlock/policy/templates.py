"""Templates for the usual policies: parameters in, Cedar text and a sentence out.

A rendered policy is ordinary Cedar, stored and shown as such. Every value is checked and quoted, so that no name can
become part of the policy's logic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """A parameter of a template: what it means, and whether it must be given."""

    words: str
    required: bool


class Template(NamedTuple):
    """A template as shown to people: what it is for, and its parameters by name."""

    words: str
    parameters: Mapping[str, Parameter]


TEMPLATES: Mapping[str, Template] = {
    "team-may-use-models": Template(
        "A team may call these models, with these kinds of request fields.",
        {
            "team": Parameter('name of the team; "*": everyone in the tenant', required=True),
            "models": Parameter(
                'list of model names, `source::model` pins, or patterns with `*`; "*": every model', required=True
            ),
            "features": Parameter(f"list of field actions allowed too: {', '.join(FIELD_ACTIONS)}", required=False),
        },
    ),
    "data-class-stays-on-prem": Template(
        "Data of this class and above is never sent to a source that is not on the premises.",
        {
            "data_class": Parameter(f"lowest class that must stay: {', '.join(DATA_CLASSES)}", required=True),
            "teams": Parameter("list of teams it holds for; absent: everyone", required=False),
        },
    ),
    "region-stays-in-region": Template(
        "Calls go only to sources in these regions. A source without a region label is in none of them.",
        {
            "regions": Parameter("list of region labels that are allowed", required=True),
            "teams": Parameter("list of teams it holds for; absent: everyone", required=False),
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


_RENDERERS: Mapping[str, Callable[[str, Mapping[str, object]], tuple[str, str]]] = {
    "team-may-use-models": _team_may_use_models,
    "data-class-stays-on-prem": _data_class_stays_on_prem,
    "region-stays-in-region": _region_stays_in_region,
}
