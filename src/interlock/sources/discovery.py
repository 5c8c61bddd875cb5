"""Discovery: what a source offers, asked of the engine itself. Registering a source is a URL and a kind.

What is asked, by kind (nothing that makes a model work):

    vllm       /v1/models (context length, LoRA parents), /version, /openapi.json (which endpoints exist), a chat with
               a tool and bounds that contradict each other, which is refused for one or the other
    llamacpp   /v1/models, /props (context of a slot, chat template, modalities, build), an empty POST to /v1/embeddings
               and /v1/rerank
    openai     /v1/models; abilities are assumed from the model's name
    anthropic  /v1/models, which tells abilities and context length
    ollama     /api/version, /api/tags, /api/show of each model (capabilities, context length)

What cannot be asked is assumed and can be pinned in the source's declaration; docs/sources.md has the table.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from interlock.errors import UpstreamError
from interlock.settings import Settings
from interlock.sources import ollama
from interlock.sources.client import SourceClient
from interlock.sources.credentials import CredentialStore
from interlock.sources.fetch import Answer
from interlock.types.model_names import parameters_told
from interlock.types.source import Ability, Model, Source, SourceKind

MODEL_NAME_CHARS_MAX = 256
_GENERATES: tuple[str, ...] = (
    Ability.chat,
    Ability.completions,
    Ability.tools,
    Ability.json_schema,
    Ability.logprobs,
)
_CONTEXT_FIELDS = ("max_model_len", "context_length", "context_window", "max_context_length")
_HELLO = [{"role": "user", "content": "Hello."}]
_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
_NO_TOOL_PARSER = b"--enable-auto-tool-choice"
"""In vLLM's answer to a chat with tools when it was started without the two options for them."""
_EMBEDS = re.compile(r"embed|(^|[/_-])(bge|e5|gte|minilm)([/_-]|$)", re.IGNORECASE)
_RERANKS = re.compile(r"rerank", re.IGNORECASE)
_OTHER_TASK = re.compile(r"whisper|tts|dall-e|moderation|transcribe|realtime|rerank|(^|[/_-])image", re.IGNORECASE)


class Discovered(msgspec.Struct, frozen=True):
    """What one look at a source gave. `warnings`: whole sentences about what was assumed or left out."""

    engine: str
    engine_version: str
    models: tuple[Model, ...]
    warnings: tuple[str, ...] = ()


def discover(source: Source, settings: Settings, credentials: CredentialStore | None = None) -> Discovered:
    """Ask a source what it offers: at most four questions of at most `discovery_timeout_ms` each, of Ollama two and one
    for each model. Synchronous; not for a thread that runs an event loop.

    Raises ConfigError when its URL is wrong, UpstreamTimeout (`discovery_timeout`) and UpstreamError: those of
    `transport.Pool.send` and `upstream_too_large`, `credential_missing`, `credential_refused`, `wrong_kind`,
    `not_a_source`, `source_not_ready`.
    """
    with SourceClient(source, settings, credentials or CredentialStore(settings)) as client:
        look = _Look(source, settings, client)
        if source.kind is SourceKind.vllm:
            return look.vllm()
        if source.kind is SourceKind.llamacpp:
            return look.llamacpp()
        if source.kind is SourceKind.anthropic:
            return look.anthropic()
        if source.kind is SourceKind.ollama:
            return look.ollama()
        return look.openai()


class _Look:
    """One look at one source."""

    def __init__(self, source: Source, settings: Settings, client: SourceClient) -> None:
        self.source = source
        self.client = client
        self.models_max = settings.models_per_source_max
        self.warnings: list[str] = []
        self._told_context = False

    # -- by kind

    def vllm(self) -> Discovered:
        entries = self._models()
        page = self.client.get("/version", api=False)
        version = _text(_object(page).get("version"))
        if not version:
            if not _owned_by(entries, "vllm"):
                raise self._error("wrong_kind", "does not look like vLLM: it has no /version; is its kind right?")
            self.warnings.append("The engine does not tell its version.")
        paths = self._endpoints()
        abilities = self._vllm_abilities(paths)
        if Ability.tools in abilities and entries and self._refuses_tools(entries[0]["id"]):
            abilities = tuple(ability for ability in abilities if ability is not Ability.tools)
            self.warnings.append(
                "The engine has no tool parser: calls with tools do not go there. "
                "Start it with --enable-auto-tool-choice and --tool-call-parser."
            )
        lengths = {entry["id"]: _length(entry) for entry in entries}
        models = []
        for entry in entries:
            parent = _text(entry.get("parent"))
            length = lengths[entry["id"]] or lengths.get(parent, 0)
            models.append(_model(entry["id"], abilities, length, parent))
        return Discovered("vllm", version, tuple(models), tuple(self.warnings))

    def _endpoints(self) -> dict[str, Any]:
        try:
            paths = _object(self.client.get("/openapi.json", api=False)).get("paths")
        except UpstreamError:
            return {}  # a help, not a need: it can be switched off
        return paths if isinstance(paths, dict) else {}

    def _vllm_abilities(self, paths: Mapping[str, object]) -> tuple[str, ...]:
        prefix = self.source.api_prefix
        chat, embeddings = f"{prefix}/chat/completions" in paths, f"{prefix}/embeddings" in paths
        judges = f"{prefix}/rerank" in paths and not chat
        if (embeddings or judges) and not chat:
            judging = (Ability.rerank, Ability.score) if judges else ()
            return ((Ability.embeddings,) if embeddings else ()) + judging
        if not chat:
            self.warnings.append("The engine does not list its endpoints: a model that generates text is assumed.")
        return _GENERATES

    def _refuses_tools(self, model: str) -> bool:
        """Whether it says that it was started without a tool parser. Else it refuses the bounds, and a version that did
        not would make one token."""
        question = {"model": model, "messages": _HELLO, "tools": [_TOOL], "max_tokens": 1, "min_tokens": 2}
        try:
            answer = self.client.post("/chat/completions", msgspec.json.encode(question))
        except UpstreamError:
            return False  # as before: a help, not a need
        return answer.status == 400 and _NO_TOOL_PARSER in answer.body

    def llamacpp(self) -> Discovered:
        entries = self._models()
        props = _object(self.client.get("/props", api=False))
        if not props and not _owned_by(entries, "llamacpp"):
            raise self._error("wrong_kind", "does not look like llama.cpp: it has no /props; is its kind right?")
        if not props:
            self.warnings.append("/props is not available: context length and abilities are taken from /v1/models.")
        alone = len(entries) == 1
        if not alone:
            self.warnings.append("The server offers several models: pin their abilities and context length.")
        abilities = self._llamacpp_abilities(props)
        slot = props.get("default_generation_settings")
        slot_length = _number(slot.get("n_ctx")) if isinstance(slot, dict) and alone else 0
        models = []
        for entry in entries:
            meta = entry.get("meta")
            facts = meta if isinstance(meta, dict) else {}
            length = slot_length or _number(facts.get("n_ctx")) or _number(facts.get("n_ctx_train"))
            parameters_m = parameters_told(facts.get("n_params"))
            models.append(msgspec.structs.replace(_model(entry["id"], abilities, length), parameters_m=parameters_m))
        return Discovered("llama.cpp", _text(props.get("build_info")), tuple(models), tuple(self.warnings))

    def _llamacpp_abilities(self, props: Mapping[str, Any]) -> tuple[str, ...]:
        abilities: list[str] = [Ability.completions, Ability.json_schema, Ability.logprobs]
        template, caps = props.get("chat_template"), props.get("chat_template_caps")
        if template or not props:
            abilities.insert(0, Ability.chat)
            # a template without tools drops them silently; servers before `chat_template_caps` brought their own form
            if not isinstance(caps, dict) or caps.get("supports_tools", True):
                abilities.append(Ability.tools)
        modalities = props.get("modalities")
        if isinstance(modalities, dict) and modalities.get("vision") is True:
            abilities.append(Ability.vision)
        for path, ability in (("/embeddings", Ability.embeddings), ("/rerank", Ability.rerank)):
            with contextlib.suppress(UpstreamError):  # an engine that says nothing there cannot do it
                # 501 without `--embeddings` or `--reranking`, 400 ("input must be provided") with it
                if self.client.post(path).status == 400:
                    abilities.append(ability)
        return tuple(abilities)

    def openai(self) -> Discovered:
        try:
            entries = _bare(self._models())
        except UpstreamError as e:
            if e.code != "not_a_source" or not self.source.models:
                raise
            words = f"Its models are not looked at ({e.message}): the declared ones are offered."
            return Discovered("openai-compatible", "", (), (words,))
        for owner, kind in (("vllm", "vllm"), ("llamacpp", "llamacpp")):
            if _owned_by(entries, owner):
                self.warnings.append(f"This looks like {kind}: registered as that kind, its load would be watched.")
        models = tuple(_model(e["id"], _assumed_abilities(e["id"]), _length(e)) for e in entries)
        if models:
            self.warnings.append("Abilities are assumed from the models' names; pin those that differ.")
        return Discovered("openai-compatible", "", models, tuple(self.warnings))

    def anthropic(self) -> Discovered:
        entries = [entry for entry in self._models("/models?limit=1000") if entry.get("lifecycle") != "retired"]
        models = []
        for entry in entries:
            abilities: list[str] = [Ability.chat, Ability.tools]
            can = entry.get("capabilities")
            told = can if isinstance(can, dict) else {}
            if _supported(told, "image_input"):
                abilities.append(Ability.vision)
            if _supported(told, "structured_outputs"):
                abilities.append(Ability.json_schema)
            models.append(_model(entry["id"], abilities, _number(entry.get("max_input_tokens"))))
        if any(not isinstance(entry.get("capabilities"), dict) for entry in entries):
            self.warnings.append("The API does not tell its models' abilities: all are assumed; pin those that differ.")
        return Discovered("anthropic-compatible", "", tuple(models), tuple(self.warnings))

    def ollama(self) -> Discovered:
        version = _text(_object(self.client.get("/version")).get("version"))
        if not version:
            raise self._error("wrong_kind", "does not look like Ollama: it has no /api/version; is its kind right?")
        declared = self.source.limits.context_tokens
        models = []
        for entry in self._models("/tags", "models", "model"):
            shown = _object(self.client.post("/show", msgspec.json.encode({"model": entry["model"]})))
            if not shown:
                self.warnings.append(f"Nothing is known of the model {entry['model']}: /api/show does not tell.")
            elif not declared and not ollama.sets_context(shown) and not self._told_context:
                self._told_context = True
                self.warnings.append(
                    "How large a context models are loaded with is not known: declare limits.context_tokens."
                )
            models.append(ollama.model_of(entry["model"], _text(entry.get("digest")), shown, version, declared))
        return Discovered("ollama", version, tuple(models), tuple(self.warnings))

    # -- /v1/models

    def _models(self, page_path: str = "/models", field: str = "data", key: str = "id") -> list[dict[str, Any]]:
        path = f"{self.source.api_prefix}{page_path}"
        page = self.client.get(page_path)
        self._check_status(page, path)
        entries = _object(page).get(field)
        if not isinstance(entries, list):
            found = page.content_type or "something unknown"
            words = f"answered {path} with {found} that is not a list of models; does its URL end before {path}?"
            raise self._error("not_a_source", words)
        named: dict[str, dict[str, Any]] = {}
        for entry in entries:
            name = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MODEL_NAME_CHARS_MAX:
                self.warnings.append(f"A model was left out: its {key} is not a printable name.")
            elif len(named) >= self.models_max:
                self.warnings.append(f"Only the first {self.models_max} models were taken (models_per_source_max).")
                break
            else:
                named.setdefault(name, entry)
        return list(named.values())

    def _check_status(self, page: Answer, path: str) -> None:
        status = page.status
        if status == 200:
            return
        if status in (401, 403) and self.source.credential is None:
            raise self._error("credential_refused", f"asks for a credential (status {status}) and none is configured")
        if status in (401, 403):
            raise self._error("credential_refused", f"refused its credential (status {status})")
        if status == 404:
            raise self._error("not_a_source", f"has no {path}: are its URL and api_prefix right?")
        if status == 503:
            raise self._error("source_not_ready", "is not ready (status 503): it may still be loading its model")
        if 300 <= status < 400:
            raise self._error("not_a_source", f"redirects {path} elsewhere (status {status}): give the final URL")
        raise self._error("not_a_source", f"answered {path} with status {status}")

    def _error(self, code: str, what: str) -> UpstreamError:
        return UpstreamError(f"source {self.source.name!r} {what}", code=code)


def _model(name: str, abilities: Sequence[str], context_length: int, parent: str = "") -> Model:
    return Model(name, tuple(str(ability) for ability in abilities), context_length, parent)


def _assumed_abilities(name: str) -> tuple[str, ...]:
    if _OTHER_TASK.search(name):
        return (Ability.rerank,) if _RERANKS.search(name) else ()
    return (Ability.embeddings,) if _EMBEDS.search(name) else (*_GENERATES, Ability.vision)


def _object(page: Answer) -> dict[str, Any]:
    """The JSON object of a page; empty when it is something else."""
    if page.status != 200:
        return {}
    try:
        value = msgspec.json.decode(page.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _bare(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Google lists its models as resources ("models/..."), and answers to their bare names as well."""
    prefix = "models/"
    if not all(entry["id"].startswith(prefix) for entry in entries):
        return entries
    return [entry | {"id": entry["id"].removeprefix(prefix)} for entry in entries if entry["id"] != prefix]


def _owned_by(entries: Sequence[Mapping[str, Any]], owner: str) -> bool:
    return any(entry.get("owned_by") == owner for entry in entries)


def _length(entry: Mapping[str, Any]) -> int:
    return next((n for field in _CONTEXT_FIELDS if (n := _number(entry.get(field)))), 0)


def _supported(capabilities: Mapping[str, Any], name: str) -> bool:
    """What is not told is assumed."""
    told = capabilities.get(name)
    return not isinstance(told, dict) or told.get("supported") is not False


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31 else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) and value.isprintable() and len(value) <= MODEL_NAME_CHARS_MAX else ""
