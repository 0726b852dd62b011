"""Every command that README, documents and messages name can be run as printed: it and its options exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from vibe_pipeline.cli import run, vibe
from vibe_pipeline.diffusion.quantisation import PACKAGES

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"(?:\b(?:kedro (?:vibe|run)|pip install|make|hf download|python benchmarks/)[^`\n#;|]*)")


def texts() -> Iterator[tuple[str, str]]:
    """Each text that people read, with where it stands: code blocks and inline code, string literals of the source."""
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        content = path.read_text()
        for block in (*re.findall(r"```[a-z]*\n(.*?)```", content, re.S), *re.findall(r"`([^`\n]+)`", content)):
            yield path.name, block.replace("\\\n", " ")
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values)
                yield path.name, "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.name, node.value


def named(start: str) -> list[tuple[str, str]]:
    found = [(where, m.group().strip()) for where, text in texts() for m in COMMAND.finditer(text)]
    return sorted({(where, command) for where, command in found if command.startswith(start)})


def options_of(command: click.Command) -> set[str]:
    return {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}


def options_in(command: str) -> set[str]:
    return set(re.findall(r"(?<=\s)--?[a-z][a-z0-9-]*", command))


def test_there_are_commands_to_look_at() -> None:
    for start in ("kedro vibe", "kedro run", "pip install", "make ", "hf download", "python benchmarks/"):
        assert named(start), start


@pytest.mark.parametrize(("where", "command"), named("kedro vibe"))
def test_kedro_vibe(where: str, command: str) -> None:
    name = command.split()[2] if len(command.split()) > 2 else "…"
    if name in ("…", "--help"):
        return
    assert name in vibe.commands, f"{where}: {command}"
    assert options_in(command) <= options_of(vibe.commands[name]), f"{where}: {command}"


@pytest.mark.parametrize(("where", "command"), named("kedro run"))
def test_kedro_run(where: str, command: str) -> None:
    assert options_in(command) <= options_of(run), f"{where}: {command}"


@pytest.mark.parametrize(("where", "command"), named("pip install"))
def test_pip_install(where: str, command: str) -> None:
    """From files that are there, this folder, or a library that pyproject.toml names; never this package by name.

    This folder with an extra is installed as it was, editable and with the constraints, or a copy would take its place.
    """
    extras = (ROOT / "pyproject.toml").read_text()
    for step in command.split("&&"):
        words = [word.strip("'\"`,)") for word in step.split()[2:]]
        files = [words[i + 1].strip(".") for i, word in enumerate(words) if word in ("-r", "-c")]
        assert all((ROOT / file).is_file() for file in files), f"{where}: {command}"
        for extra in re.findall(r"\.\[(\w+)\]", step):
            assert re.search(rf"^{extra} = ", extras, re.M), f"{where}: {command}"
            assert "-e" in words and "requirements/constraints.txt" in files, f"{where}: {command}"
        if "-r" not in words and "-e" not in words:
            package = next(w for i, w in enumerate(words) if not w.startswith("-") and words[i - 1] != "-c")
            if package == "jupyterlab":  # opens the notebook; nothing of this package imports it
                continue
            for name in PACKAGES.values() if package == "X" else [package.strip(".")]:
                assert "vibe_pipeline" not in name and f'"{name}' in extras, f"{where}: {command}"


@pytest.mark.parametrize(("where", "command"), named("make "))
def test_make(where: str, command: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    if where.endswith(".md"):
        assert command.split()[1] in targets, f"{where}: {command}"


@pytest.mark.parametrize(("where", "command"), named("python benchmarks/"))
def test_benchmarks(where: str, command: str) -> None:
    script = ROOT / command.split()[1]
    assert script.is_file(), f"{where}: {command}"
    known = script.read_text()
    assert all(f'"{option}"' in known for option in options_in(command)), f"{where}: {command}"
