"""A LiteLLM proxy's configuration as one of ours, and a plain list of what has no counterpart.

INVARIANT: nothing that may be a secret leaves this module. What is told of a field is its name; of its value only names
of models, providers, groups and environment variables, and addresses without user names, queries and fragments.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from interlock.control.parse import read_yaml
from interlock.errors import ConfigError

DEPLOYMENTS_MAX = 2000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_KEY = frozenset(("", "none", "empty", "dummy", "fake", "fake-key", "not-needed", "na", "n/a"))
"""What people write as the key of a server that asks for none."""


class Provider(NamedTuple):
    """How a provider's models are reached. `url` "": `api_base` is needed. `key`: the variable that its key is in when
    none is named, "" when it needs none."""

    kind: str
    url: str = ""
    prefix: str = "/v1"
    key: str = ""
    header: str = ""
    discovers: bool = True


PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider("openai", "https://api.openai.com", key="OPENAI_API_KEY"),
    "text-completion-openai": Provider("openai", "https://api.openai.com", key="OPENAI_API_KEY"),
    "openai_like": Provider("openai", key="OPENAI_LIKE_API_KEY"),
    "custom_openai": Provider("openai", key="OPENAI_API_KEY"),
    "litellm_proxy": Provider("openai", key="LITELLM_PROXY_API_KEY"),
    "lm_studio": Provider("openai"),
    "llamafile": Provider("openai", "http://127.0.0.1:8080"),
    "azure": Provider("openai", prefix="/openai/v1", key="AZURE_API_KEY", header="api-key", discovers=False),
    "anthropic": Provider("anthropic", "https://api.anthropic.com", key="ANTHROPIC_API_KEY", header="x-api-key"),
    "ollama": Provider("ollama", "http://127.0.0.1:11434", ""),
    "ollama_chat": Provider("ollama", "http://127.0.0.1:11434", ""),
    "hosted_vllm": Provider("vllm"),
    "vllm": Provider("vllm"),
    "gemini": Provider(
        "openai", "https://generativelanguage.googleapis.com", "/v1beta/openai", "GEMINI_API_KEY", discovers=False
    ),
    "groq": Provider("openai", "https://api.groq.com", "/openai/v1", "GROQ_API_KEY"),
    "mistral": Provider("openai", "https://api.mistral.ai", key="MISTRAL_API_KEY"),
    "deepseek": Provider("openai", "https://api.deepseek.com", key="DEEPSEEK_API_KEY"),
    "together_ai": Provider("openai", "https://api.together.xyz", key="TOGETHERAI_API_KEY"),
    "fireworks_ai": Provider("openai", "https://api.fireworks.ai", "/inference/v1", "FIREWORKS_API_KEY"),
    "openrouter": Provider("openai", "https://openrouter.ai", "/api/v1", "OPENROUTER_API_KEY"),
    "xai": Provider("openai", "https://api.x.ai", key="XAI_API_KEY"),
    "cerebras": Provider("openai", "https://api.cerebras.ai", key="CEREBRAS_API_KEY"),
    "nvidia_nim": Provider("openai", "https://integrate.api.nvidia.com", key="NVIDIA_NIM_API_KEY"),
    "deepinfra": Provider("openai", "https://api.deepinfra.com", "/v1/openai", "DEEPINFRA_API_KEY"),
}
_WHY_NOT = {
    "bedrock": "its API is not of a form that sources speak; put a gateway of OpenAI's form before it",
    "vertex_ai": "its API is not of a form that sources speak; put a gateway of OpenAI's form before it",
    "sagemaker": "its API is not of a form that sources speak; put a gateway of OpenAI's form before it",
}
_PRICES = {
    "input_cost_per_token": "input_usd_per_mtok",
    "output_cost_per_token": "output_usd_per_mtok",
    "cache_read_input_token_cost": "cached_input_usd_per_mtok",
    "cache_creation_input_token_cost": "cache_write_usd_per_mtok",
}
_READ = frozenset(
    (
        "model",
        "custom_llm_provider",
        "api_key",
        "api_base",
        "base_url",
        "weight",
        "max_parallel_requests",
        "timeout",
        "litellm_credential_name",
        *_PRICES,
    )
)


class Imported(msgspec.Struct, frozen=True):
    """`document`: as `interlock apply` takes it. `notes`: one sentence for each thing that was not taken over, or not
    as it was."""

    document: dict[str, Any]
    notes: tuple[str, ...]


def convert(
    text: str, *, file: str = "config.yaml", tenant: str = "default", environment: Mapping[str, str] | None = None
) -> Imported:
    """Convert a configuration. `environment`: where addresses that are given as `os.environ/NAME` are looked up; keys
    never are. Raises ConfigError."""
    root = read_yaml(file, text)
    if not isinstance(root, dict) or not isinstance(root.get("model_list"), list) or not root["model_list"]:
        raise ConfigError(f"{file}: there is no model_list: is it the configuration of a LiteLLM proxy?", param=file)
    if len(root["model_list"]) > DEPLOYMENTS_MAX:
        raise ConfigError(f"{file}: more than {DEPLOYMENTS_MAX} entries in model_list", param=file)
    return _Import(root, tenant, environment or {}).result()


class _Deployment(NamedTuple):
    group: str
    model: str
    source: str
    weight: int


class _Import:
    """One conversion: sources as they are met, groups of deployments, and notes."""

    def __init__(self, root: dict[str, Any], tenant: str, environment: Mapping[str, str]) -> None:
        self._root = root
        self._tenant = tenant
        self._environment = environment
        self._notes: dict[str, None] = {}
        self._sources: dict[tuple[object, ...], dict[str, Any]] = {}
        self._deployments: list[_Deployment] = []
        self._credentials = _by_name(root.get("credential_list"), "credential_name", "credential_values")

    def result(self) -> Imported:
        for i, entry in enumerate(self._root["model_list"]):
            self._entry(f"model_list[{i}]", entry)
        if not self._sources:
            raise ConfigError(
                "nothing of model_list could be taken over: " + "; ".join(self._notes), param="model_list"
            )
        aliases = self._aliases()
        settings = _mapping(self._root.get("litellm_settings"))
        tenant: dict[str, Any] = {"name": self._tenant}
        budget = self._budget(settings)
        if budget:
            tenant["budgets"] = [budget]
        models = sorted({m["name"] for s in self._sources.values() for m in s["models"]})
        wide = any(not s.get("declared_only") for s in self._sources.values() if not s["models"])
        tenant["policies"] = [
            {
                "id": "imported-models",
                "template": "team-may-use-models",
                "parameters": {"team": "*", "models": "*" if wide or len(models) > 200 else models},
            }
        ]
        if aliases:
            tenant["aliases"] = aliases
        self._rest(settings)
        self._note(
            "policies: everyone in the tenant may use every model that was imported; narrow policy imported-models down"
        )
        self._note("users, teams and virtual keys are in LiteLLM's database and were not imported: declare them anew")
        document = {"tenants": [tenant], "sources": list(self._sources.values())}
        return Imported(document, tuple(self._notes))

    def _note(self, words: str) -> None:
        self._notes[words] = None

    # -- deployments

    def _entry(self, at: str, entry: Any) -> None:
        group = entry.get("model_name") if isinstance(entry, dict) else None
        params = _mapping(entry.get("litellm_params")) if isinstance(entry, dict) else {}
        model = params.get("model")
        if not isinstance(group, str) or not isinstance(model, str) or not group or not model:
            self._note(f"{at}: not imported: it has no model_name or no litellm_params.model")
            return
        values = self._credentials.get(str(params.get("litellm_credential_name", "")), {})
        params = {**values, **params}
        provider, name = self._provider(model, params)
        known = PROVIDERS.get(provider)
        if known is None:
            why = _WHY_NOT.get(provider, "no kind of source speaks its API")
            self._note(f"{at}: {group!r} was not imported: provider {_shown(provider)}: {why}")
            return
        url = self._url(at, group, known, params)
        if url is None:
            return
        wildcard = "*" in name
        source = self._source(at, provider, known, url, params, wildcard)
        info = _mapping(entry.get("model_info"))
        if wildcard:
            self._note(
                f"{at}: {group!r}: every model that source {source['name']!r} tells of is offered, by its own name"
            )
        else:
            self._model(source, name, {**info, **params})
            weight = params.get("weight", 1)
            self._deployments.append(
                _Deployment(group, name, source["name"], weight if type(weight) is int and weight > 0 else 1)
            )
        for field in sorted(set(params) - _READ):
            self._note(f"{at}: {group!r}: litellm_params.{_shown(field)} was not imported")
        for field in sorted(set(info) - {"id", *_PRICES}):
            self._note(f"{at}: {group!r}: model_info.{_shown(field)} was not imported")

    def _provider(self, model: str, params: Mapping[str, Any]) -> tuple[str, str]:
        given = params.get("custom_llm_provider")
        head, slash, rest = model.partition("/")
        if isinstance(given, str) and given:
            return given, rest if slash and head == given else model
        if slash and (head in PROVIDERS or head in _WHY_NOT or "api_base" not in params):
            return head, rest
        if model.startswith("claude"):
            return "anthropic", model
        return "openai", model

    def _url(self, at: str, group: str, known: Provider, params: Mapping[str, Any]) -> tuple[str, str] | None:
        """(address up to the prefix, prefix), or None after a note that says why there is none."""
        given = params.get("api_base") or params.get("base_url") or ""
        variable = _variable(given)
        if variable:
            given = self._environment.get(variable, "")
            if not given:
                self._note(
                    f"{at}: {group!r} was not imported: its address is in the environment variable {variable}, which is"
                    " not set here; set it and import again"
                )
                return None
        if not given:
            if not known.url:
                self._note(f"{at}: {group!r} was not imported: it has no api_base")
                return None
            return known.url, known.prefix
        try:
            parts = urlsplit(str(given))
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port, parts = "", None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            self._note(f"{at}: {group!r} was not imported: its api_base is not an http or https address")
            return None
        if parts.username or parts.password or parts.query or parts.fragment:
            self._note(f"{at}: {group!r}: user name, password, query and fragment of its api_base were left out")
        where = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
        path = parts.path.rstrip("/")
        for tail in ("/chat/completions", "/completions", "/embeddings", "/messages"):
            path = path.removesuffix(tail)
        if known.header == "api-key" or not path:  # Azure's own paths are made of deployments and versions
            return where, known.prefix
        return (where, path) if known.kind in ("openai", "vllm") else (where + path.removesuffix("/v1"), known.prefix)

    def _source(
        self, at: str, provider: str, known: Provider, url: tuple[str, str], params: Mapping[str, Any], wildcard: bool
    ) -> dict[str, Any]:
        key = params.get("api_key")
        variable = _variable(key)
        literal = isinstance(key, str) and not variable and key.strip().lower() not in _NO_KEY
        # which key a deployment has tells sources apart; the key itself is only compared, and goes no further
        identity = (known.kind, *url, variable or (key if literal else ""), wildcard)
        found = self._sources.get(identity)
        if found is None:
            name = self._free_name(provider)
            on_prem = _on_prem(urlsplit(url[0]).hostname or "")
            found = {"name": name, "kind": known.kind, "url": url[0], "granted_to": [self._tenant]}
            if url[1] != "/v1":
                found["api_prefix"] = url[1]
            found["labels"] = {"on_prem": on_prem} if on_prem else {"on_prem": False, "data_class_max": "internal"}
            found["models"] = []
            if not known.discovers and not wildcard:
                found["declared_only"] = True
            self._limits(found, params)
            self._credential(at, name, found, known, variable, literal=literal, given=key is not None)
            if not on_prem:
                self._note(
                    f"source {name!r} is not on the premises and may see internal data at most: check its labels"
                )
            self._sources[identity] = found
        return found

    def _credential(
        self,
        at: str,
        name: str,
        found: dict[str, Any],
        known: Provider,
        variable: str,
        *,
        literal: bool,
        given: bool,
    ) -> None:
        if literal:
            variable = re.sub(r"[^A-Z0-9]+", "_", f"{name}_api_key".upper())
            self._note(
                f"{at}: the key is written into the configuration: it was not taken over. Source {name!r} reads it from"
                f" the environment variable {variable}: put a new key there, and withdraw the old one"
            )
        elif not variable and not given:
            variable = known.key
        if not variable:
            return
        if urlsplit(found["url"]).scheme == "http" and not found["labels"]["on_prem"]:
            self._note(f"source {name!r}: its key is not sent off-prem in the clear: it was left out; use https")
            return
        found["credential"] = {"env": variable}
        if known.header:
            found["credential"] |= {"header": known.header, "scheme": ""}

    def _limits(self, found: dict[str, Any], params: Mapping[str, Any]) -> None:
        concurrency, timeout = params.get("max_parallel_requests"), params.get("timeout")
        if type(concurrency) is int and concurrency > 0:
            found["limits"] = {"concurrency": concurrency}
        if isinstance(timeout, int | float) and not isinstance(timeout, bool) and 0 < timeout <= 86_400:
            found["timeouts"] = {"total_ms": int(timeout * 1000)}

    def _model(self, source: dict[str, Any], name: str, fields: Mapping[str, Any]) -> None:
        if any(model["name"] == name for model in source["models"]):
            return
        price = {}
        for theirs, ours in _PRICES.items():
            try:
                usd = Decimal(str(fields[theirs])) * 1_000_000 if fields.get(theirs) is not None else None
            except InvalidOperation:
                self._note(f"model {name!r}: {theirs} is not a number and was not imported")
                continue
            if usd is not None and usd.is_finite() and 0 <= usd <= 1_000_000:
                price[ours] = format(usd.normalize(), "f")
        source["models"].append({"name": name, **({"price": price} if price else {})})

    def _free_name(self, provider: str) -> str:
        taken = {source["name"] for source in self._sources.values()}
        base = re.sub(r"[^a-z0-9]+", "-", provider.lower()).strip("-")
        return next(n for n in (base, *(f"{base}-{i}" for i in range(2, DEPLOYMENTS_MAX + 2))) if n not in taken)

    # -- names

    def _aliases(self) -> list[dict[str, Any]]:
        groups: dict[str, list[_Deployment]] = {}
        for deployment in self._deployments:
            groups.setdefault(deployment.group, []).append(deployment)
        models = {d.model for d in self._deployments}
        found: dict[str, dict[str, Any]] = {}
        for group, members in groups.items():
            if all(member.model == group for member in members):
                continue  # the model's own name says all of it
            if self._sayable(group, models):
                found[group] = {"name": group, "targets": _targets(members)}
        router = _mapping(self._root.get("router_settings"))
        for alias, target in _mapping(router.get("model_group_alias")).items():
            target = target.get("model") if isinstance(target, dict) else target
            if target not in groups:
                self._note(f"router_settings.model_group_alias: {_shown(alias)}: there is no such model group")
            elif self._sayable(str(alias), models):
                found[str(alias)] = {"name": str(alias), "targets": _targets(groups[target])}
        return list(found.values())

    def _sayable(self, name: str, models: set[str]) -> bool:
        if name in models:
            self._note(f"{name!r} is also the name of a model itself, which comes before an alias: it was not imported")
        elif "::" in name or "@" in name or "*" in name or name == "auto" or len(name) > 200 or not name.isprintable():
            self._note(f"the name {_shown(name)} cannot be an alias and was not imported")
        else:
            return True
        return False

    # -- everything else

    def _budget(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        usd, window = settings.get("max_budget"), settings.get("budget_duration")
        if usd is None:
            return None
        spelled = {"mo": "month", "month": "month", "week": "week", "day": "day", None: "total"}
        if isinstance(window, str) and re.fullmatch(r"[1-9][0-9]{0,4}[mhd]", window):
            ours: str | None = window
        else:
            ours = spelled.get(re.sub(r"^1", "", window) if isinstance(window, str) else window)
        if isinstance(usd, bool) or not isinstance(usd, int | float) or not usd > 0 or ours is None:
            self._note("litellm_settings.max_budget was not imported: its amount or duration is not understood")
            return None
        return {"name": "litellm", "usd": str(usd), "window": ours}

    def _rest(self, settings: Mapping[str, Any]) -> None:
        router = _mapping(self._root.get("router_settings"))
        for section, fields in (("litellm_settings", settings), ("router_settings", router)):
            for field in sorted(map(str, fields)):
                if field in ("max_budget", "budget_duration", "model_group_alias"):
                    continue
                if field.endswith("fallbacks"):
                    self._note(
                        f"{section}.{field} was not imported: a call fails over among the sources of its model; to"
                        " another model only where the caller asks for `auto`"
                    )
                else:
                    self._note(f"{section}.{_shown(field)} was not imported")
        for field in sorted(map(str, _mapping(self._root.get("general_settings")))):
            self._note(f"general_settings.{_shown(field)} was not imported")
        for name in sorted(map(str, _mapping(self._root.get("environment_variables")))):
            self._note(f"environment_variables.{_shown(name)} was not imported: set it where the gateways run")
        read = {"model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables"}
        for section in sorted(set(map(str, self._root)) - read - {"credential_list"}):
            self._note(f"{_shown(section)} was not imported")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _by_name(entries: Any, name: str, values: str) -> dict[str, dict[str, Any]]:
    listed = entries if isinstance(entries, list) else []
    return {str(e[name]): _mapping(e.get(values)) for e in listed if isinstance(e, dict) and name in e}


def _variable(value: Any) -> str:
    """The environment variable that `os.environ/NAME` names, or ""."""
    name = value.removeprefix("os.environ/") if isinstance(value, str) and value.startswith("os.environ/") else ""
    return name if _NAME.fullmatch(name) else ""


def _shown(name: Any) -> str:
    """A field's or group's name for people: printable and short."""
    text = str(name)
    return repr(text[:60]) if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", text) else text


def _targets(members: list[_Deployment]) -> list[dict[str, Any]]:
    """The members of a group as targets of an alias; deployments that are one target add their weights up."""
    weights: dict[tuple[str, str], int] = {}
    for member in members:
        weights[member.model, member.source] = weights.get((member.model, member.source), 0) + member.weight
    return [
        {"model": model, "source": source, **({"weight": weight} if weight != 1 else {})}
        for (model, source), weight in weights.items()
    ]


def _on_prem(host: str) -> bool:
    """Whether an address is of this machine or a private network, as far as it says."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan", ".localhost", ".svc"))
