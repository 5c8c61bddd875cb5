"""Which file of the native part is taken, and everything that leads to none."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from pathlib import Path

import pytest

from interlock.cli.main import main
from interlock.native import library
from interlock.native.library import SWITCH, choose, load, processor_flags
from interlock.native.scan import native
from tests.native import expected, variants
from tests.scripts import script

SHA = next(each for each in library.VARIANTS if each.name == "linux-x86_64-sha").flags


def test_the_native_part_is_there_and_of_this_source() -> None:
    """Without this, a run of the tests could test the code in Python twice and the native part not at all."""
    if why := expected():
        pytest.skip(why)
    assert script("native").is_current(), "make assets"
    found = native()
    assert found is not None, f"is {SWITCH} set to 0?"
    assert found.name == variants()[0].name


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    """In whatever folder. So what the wheel carries can be compiled again and compared."""
    if why := expected():
        pytest.skip(why)
    name = variants()[0].name
    for file in library.FOLDER.parent.glob("*.zig"):
        shutil.copy(file, tmp_path)
    assert script("native").build(tmp_path, name)
    assert (tmp_path / "lib" / f"{name}.so").read_bytes() == (library.FOLDER / f"{name}.so").read_bytes()


def test_each_variant_is_compiled() -> None:
    assert {each.name for each in library.VARIANTS} == set(script("native").TARGETS)


@pytest.mark.parametrize(
    ("system", "machine", "flags", "name"),
    [
        ("linux", "x86_64", SHA | {"avx"}, "linux-x86_64-sha"),
        ("linux", "x86_64", SHA, "linux-x86_64-sha"),
        *(("linux", "x86_64", SHA - {each}, "linux-x86_64") for each in sorted(SHA)),
        ("linux", "x86_64", set(), "linux-x86_64"),
        ("linux", "aarch64", {"fp", "asimd", "sha1", "sha2"}, "linux-aarch64-sha2"),
        ("linux", "aarch64", {"fp", "asimd"}, "linux-aarch64"),
        ("linux", "aarch64", {"fp", "sha2"}, None),
        ("linux", "riscv64", SHA, None),
        ("darwin", "x86_64", SHA, None),
        ("win32", "x86_64", SHA, None),
    ],
)
def test_a_variant_needs_its_machine_and_all_its_flags(
    system: str, machine: str, flags: set[str], name: str | None
) -> None:
    found = choose(system, machine, flags)
    assert (found and found.name) == name


def test_flags_are_those_that_all_processors_have() -> None:
    text = "processor\t: 0\nflags\t\t: fpu sha_ni ssse3\nbugs\t: spectre\n\nprocessor\t: 1\nflags\t\t: fpu ssse3\n"
    assert processor_flags(text) == {"fpu", "ssse3"}
    assert processor_flags("processor : 0\nFeatures\t: fp asimd sha2\nCPU part : 0xd0c\n") == {"fp", "asimd", "sha2"}
    assert processor_flags("") == processor_flags("nonsense") == frozenset()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the compiled files. What was loaded from a path is loaded for good, so each test loads once it may."""
    if why := expected():
        pytest.skip(why)
    made = tmp_path / "lib"
    shutil.copytree(library.FOLDER, made)
    return made


def test_a_copy_is_loaded(folder: Path) -> None:
    """What the tests below change is all that keeps it from being loaded."""
    found = load({}, folder)
    assert found is not None
    assert found[0].name == variants()[0].name


def test_it_can_be_switched_off(folder: Path) -> None:
    assert load({SWITCH: "0"}, folder) is None
    assert load({SWITCH: "1"}, folder) is not None


def test_no_file_no_library(folder: Path) -> None:
    assert load({}, folder / "elsewhere") is None
    (folder / f"{variants()[0].name}.so").unlink()
    assert load({}, folder) is None


def test_another_version_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "VERSION", library.VERSION + 1)
    assert load({}, folder) is None


def test_what_is_no_library_is_not_used(folder: Path) -> None:
    file = folder / f"{variants()[0].name}.so"
    other = next(each for each in library.VARIANTS if each.machine != platform.machine())
    for data in (b"", b"\x7fELF", (folder / f"{other.name}.so").read_bytes()):
        file.unlink()  # what is mapped into this process stays as it is
        file.write_bytes(data)
        assert load({}, folder) is None


def test_a_library_without_the_functions_is_not_used(folder: Path) -> None:
    """As any other one is that is found under this name."""
    import _ctypes  # an extension module, if Python was built with shared ones

    if not getattr(_ctypes, "__file__", None):
        pytest.skip("this Python has no extension modules of its own")
    file = folder / f"{variants()[0].name}.so"
    file.unlink()
    shutil.copy(_ctypes.__file__, file)
    assert load({}, folder) is None


def test_another_machine_has_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in ((platform, "machine", lambda: "riscv64"), (sys, "platform", "darwin")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert load({}, folder) is None


def test_a_machine_that_does_not_tell_its_flags_has_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "CPUINFO", tmp_path / "none")
    assert load({}, folder) is None


def test_the_command_line_says_which_file_is_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in ("", "0"):
        native.cache_clear()
        monkeypatch.setenv(SWITCH, given)
        assert main(["version", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)["native"]
        assert told == (None if given == "0" or not variants() else variants()[0].name)
    native.cache_clear()
