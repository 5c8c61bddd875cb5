"""Sources as forms: what people type, and the declarations that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock.control.console.form_values import whole_number
from interlock.control.documents import SourceSpec, lean
from interlock.control.web import read_as
from interlock.types.source import CLOUD_KINDS, SourceKind

if TYPE_CHECKING:
    from interlock.control.console.visit import Fields

KINDS = (
    (SourceKind.vllm.value, "vLLM"),
    (SourceKind.llamacpp.value, "llama.cpp"),
    (SourceKind.ollama.value, "Ollama"),
    (SourceKind.openai.value, "OpenAI's API, or one like it"),
    (SourceKind.anthropic.value, "Anthropic's API"),
)
PLACES = (("yes", "On our premises"), ("no", "Outside: a cloud, a provider"))
DATA_CLASSES = ("public", "internal", "confidential", "restricted")
SECRETS = (("", "none"), ("file", "in a file of the gateways"), ("env", "in an environment variable of theirs"))
EVERYBODY = "*"


def reached(form: Fields) -> dict[str, Any]:
    """What says how a source is reached: name, kind, URL and where its credential is."""
    out: dict[str, Any] = {name: form.get(name, "").strip() for name in ("name", "kind", "url")}
    secret = form.get("secret", "")
    if secret in ("file", "env"):
        out["credential"] = {secret: form.get("secret_at", "").strip()}
        if header := form.get("secret_header", "").strip():
            out["credential"] |= {"header": header, "scheme": ""}
    return out


def bounds(form: Fields, before: dict[str, Any]) -> dict[str, Any]:
    """Labels, limits and who may be given the source, over what is declared besides."""
    labels = {
        **before.get("labels", {}),
        "region": form.get("region", "").strip(),
        "on_prem": form.get("on_prem", "yes") == "yes",
        "data_class_max": form.get("data_class_max", "restricted"),
    }
    limits = {
        **before.get("limits", {}),
        "concurrency": whole_number(form, "concurrency"),
        "waiting_max": whole_number(form, "waiting_max"),
        "waiting_resume": whole_number(form, "waiting_resume"),
    }
    out = {**before, "labels": labels, "limits": {name: value for name, value in limits.items() if value is not None}}
    if not before.get("tenant"):
        out["granted_to"] = form.every("granted_to")
    return out


def spec(fields: dict[str, Any]) -> SourceSpec:
    """The declaration. Raises BadRequest with the field at fault."""
    return read_as(fields, SourceSpec)


def typed(declared: SourceSpec) -> dict[str, Any]:
    """A declaration as the fields of the form that changes it."""
    limits = declared.limits
    return {
        "region": declared.labels.region,
        "on_prem": "yes" if declared.labels.on_prem else "no",
        "data_class_max": declared.labels.data_class_max,
        "concurrency": "" if limits.concurrency is None else str(limits.concurrency),
        "waiting_max": str(limits.waiting_max),
        "waiting_resume": str(limits.waiting_resume),
        "granted_to": list(declared.granted_to),
        "reason": "",
    }


def retyped(form: Fields) -> dict[str, Any]:
    """What was typed, to be shown again; where only the address was, what is likely for such a source besides."""
    if "region" in form:
        return {**NEW, **form, "granted_to": form.every("granted_to")}
    outside = {"on_prem": "no", "data_class_max": "public"} if form.get("kind") in CLOUD_KINDS else {}
    return {**NEW, **form, **outside}


def changed(declared: SourceSpec, form: Fields) -> SourceSpec:
    """A declaration with what the form says; the rest stays as it is. Raises BadRequest."""
    return spec(bounds(form, lean(declared)))


NEW: dict[str, Any] = {
    "name": "",
    "kind": SourceKind.vllm.value,
    "url": "",
    "secret": "",
    "secret_at": "",
    "secret_header": "",
    **typed(SourceSpec(name="", kind=SourceKind.vllm, url="")),
    "granted_to": [EVERYBODY],
}
"""The fields of a source that nobody has described yet."""
