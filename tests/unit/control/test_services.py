"""Parts of the services that need no database."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest

from interlock.control.documents import ModelSpec, PriceSpec, SourceSpec
from interlock.control.secrets import ensure_pepper, write_secret
from interlock.control.services.sources import Found, looked, offered, probe
from interlock.errors import ConfigError, UpstreamError
from interlock.settings import Settings
from interlock.types.source import Ability, Model, Source, SourceKind

AT = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)
FOUND = (Model(name="b", context_length=10), Model(name="a", quality_milli=400))


def _spec(kind: SourceKind = SourceKind.vllm, declared_only: bool = False) -> SourceSpec:
    return SourceSpec(
        name="s",
        kind=kind,
        url="http://x",
        models=(
            ModelSpec(name="a", context_length=99, abilities=(Ability.tools, Ability.chat)),
            ModelSpec(name="absent", price=PriceSpec(output_usd_per_mtok=2)),
        ),
        price=PriceSpec(output_usd_per_mtok=1),
        declared_only=declared_only,
    )


def test_pins_replace_only_what_they_name() -> None:
    models, warnings = offered(_spec(), FOUND, listed=True, at=AT)
    a, b = models
    assert (a.name, a.context_length, a.quality_milli, a.abilities) == ("a", 99, 400, ("chat", "tools"))
    assert (b.name, b.context_length) == ("b", 10)
    assert a.price == b.price
    assert (a.price.input_nusd_per_mtok, a.price.output_nusd_per_mtok, a.price.origin) == (0, 10**9, "source")
    assert warnings == ("model 'absent' is declared and the engine does not serve it",)


def test_size_and_family_are_as_declared_else_as_found_else_as_the_name_says() -> None:
    pins = (
        ModelSpec("tuned", parameters_m=8030, family="ours"),
        ModelSpec("adapter", parent="Qwen/Qwen2.5-7B-Instruct"),
    )
    found = (
        Model("tuned", parameters_m=1),
        Model("adapter"),
        Model("SmolLM2-135M-Instruct", parameters_m=134),
        Model("Meta-Llama-3.1-70B"),
        Model("house-model"),
    )
    models = {
        m.name: m
        for m in offered(SourceSpec("s", SourceKind.vllm, "http://x", models=pins), found, listed=True, at=AT)[0]
    }
    kin = {name: (model.parameters_m, model.family) for name, model in models.items()}
    assert kin == {
        "tuned": (8030, "ours"),
        "adapter": (7000, "qwen"),
        "SmolLM2-135M-Instruct": (134, "smollm"),
        "Meta-Llama-3.1-70B": (70_000, "meta-llama"),
        "house-model": (0, "house"),
    }


@pytest.mark.parametrize(("kind", "listed"), [(SourceKind.openai, True), (SourceKind.vllm, False)])
def test_a_model_that_may_be_served_unlisted_is_offered(kind: SourceKind, listed: bool) -> None:
    models, warnings = offered(_spec(kind), FOUND, listed=listed, at=AT)
    assert [m.name for m in models] == ["a", "absent", "b"]
    assert models[1].price.output_nusd_per_mtok == 2 * 10**9
    assert warnings == ()


def test_declared_only_leaves_the_rest_out() -> None:
    assert [m.name for m in offered(_spec(declared_only=True), FOUND, listed=True, at=AT)[0]] == ["a"]


@pytest.mark.parametrize(
    ("kind", "given", "prefix"),
    [(SourceKind.ollama, "/v1", "/api"), (SourceKind.ollama, "/llm/api", "/llm/api"), (SourceKind.vllm, "/v1", "/v1")],
)
def test_an_ollama_server_has_its_api_below_another_prefix(kind: SourceKind, given: str, prefix: str) -> None:
    declared = SourceSpec(name="s", kind=kind, url="http://x", api_prefix=given)
    assert probe(declared).api_prefix == prefix


def test_a_look_knows_the_models_when_no_others_are_offered() -> None:
    assert [m.name for m in probe(_spec(declared_only=True)).models] == ["a", "absent"]
    assert probe(_spec()).models == ()


def test_a_failed_look_is_an_error_in_words() -> None:
    def fails(_: Source) -> object:
        raise UpstreamError("source 's' refused the connection")

    source = Source(id="", name="s", kind=SourceKind.vllm, base_url="http://x")
    assert looked(fails, source) == Found(error="source 's' refused the connection")
    assert looked(lambda _: Found(engine="vllm", models=FOUND), source).models == FOUND


def test_the_pepper_is_made_once_and_private(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path / "home"))
    pepper = ensure_pepper(settings, lambda n: b"\x07" * n)
    assert pepper == b"07" * 32
    assert ensure_pepper(settings, lambda n: b"\x08" * n) == pepper
    assert stat.S_IMODE(settings.pepper_path().stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.pepper_path().parent.stat().st_mode) == 0o700


def test_a_configured_pepper_is_never_made_and_never_short(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path), pepper_file=str(tmp_path / "shared"))
    with pytest.raises(ConfigError, match="cannot be read"):
        ensure_pepper(settings, lambda n: b"\x07" * n)
    (tmp_path / "shared").write_text("short\n")
    with pytest.raises(ConfigError, match="at least 32 characters"):
        ensure_pepper(settings, lambda n: b"\x07" * n)


def test_a_secret_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_secret(path, "one")
    with pytest.raises(FileExistsError):
        write_secret(path, "two", replace=False)
    assert path.read_text() == "one"
    write_secret(path, "two")
    assert path.read_text() == "two"
    with pytest.raises(ConfigError, match="cannot be written"):
        write_secret(path / "below", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]
