"""The README and the pages of docs/ are true: their Python runs, their commands parse, their links lead somewhere.

A Python block that is too slow for a test begins with the comment "# not run by the tests: WHY", for the reader to see.
"""

import ast
import dataclasses
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from gpvae_jax import cli, compare, config
from gpvae_jax.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "# not run by the tests: "
# in a page's inline code these stand for something that the reader fills in
PLACEHOLDERS = re.compile(r"…|\bCOMMAND\b|\bOPTION")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(path: Path) -> Iterator[list[str]]:
    """Every `gpvae …`, `make …` and `python -m …` of a page's shell blocks and inline code, or of a docstring."""
    text = path.read_text()
    if path.suffix == ".py":
        text = (ast.get_docstring(ast.parse(text)) or "").replace("\\\n", " ")
        shell = "\n".join(re.findall(r"^ {4}(\S.*)", text, re.MULTILINE))
    else:
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        shell = "\n".join([*blocks(text, "sh"), *inline]).replace("\\\n", " ")
    for line in shell.splitlines():
        if re.match(r"(gpvae|make|python -m) +\S", line) and not PLACEHOLDERS.search(line):
            yield shlex.split(line, comments=True)


def all_commands(paths: list[Path]) -> list:
    found = {(shlex.join(words), path) for path in paths for words in commands(path)}
    return [pytest.param(shlex.split(line), id=f"{path.name}: {line}") for line, path in sorted(found, key=str)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path) -> None:
    """All blocks of a page in one namespace, in order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page.read_text(), "python"):
        if not block.startswith(NOT_RUN):
            exec(compile(block, page.name, "exec"), names)
    if page.name == "README.md":
        elbo, iwae = (float(number) for number in re.findall(r"-\d+\.\d+", capsys.readouterr().out))
        assert -40 < elbo < iwae < -15  # 20 epochs on the digits; an untrained model has −44


MODULES = sorted(path for folder in ("experiments", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("words", all_commands([*PAGES, *MODULES]))
def test_commands_are_understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the very parsers that would read them: a renamed option, setting or method fails."""
    monkeypatch.chdir(ROOT)
    try:
        understood(words)
    except SystemExit as exit_:
        assert exit_.code in (0, None), f"{shlex.join(words)} is not understood"  # noqa: PT017


@pytest.mark.parametrize(
    "line",
    [
        "gpvae train --no-such-option 1",
        "gpvae compare --methods vaee",
        "gpvae draw",
        "make tests",
        "python -m experiments.gains runs",
    ],
)
def test_commands_that_mean_nothing_are_found_out(line: str) -> None:
    with pytest.raises((SystemExit, AssertionError)):
        understood(shlex.split(line))


def understood(words: list[str]) -> None:
    """Raise, or exit with an error, where a command line means nothing."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), words
    elif words[0] == "gpvae":
        assert words[1] in (*cli.COMMANDS, "--help")
        if words[2:]:  # a command alone is mentioned, not given
            check_settings(cli.parse(words[1:]))
    elif words[2].partition(".")[0] in ("experiments", "benchmarks"):
        name = f"{words[2]}.__main__" if hasattr(importlib.import_module(words[2]), "__path__") else words[2]
        made_there = [v for v in vars(importlib.import_module(name)).values() if getattr(v, "__module__", "") == name]
        kinds = [v for v in made_there if isinstance(v, type) and dataclasses.is_dataclass(v)]
        assert not words[3:] or any(parses(kind, words[3:]) for kind in kinds), words


def parses(kind: type, arguments: list[str]) -> bool:
    try:
        tyro.cli(kind, args=arguments)
    except SystemExit as exit_:
        return exit_.code in (0, None)  # --help
    return True


def check_settings(command: object) -> None:
    """The rows of a comparison and the method's settings name things that exist."""
    if isinstance(command, cli.Compare):
        rows = compare.configs(command.run, command.methods or tuple(METHODS), command.out)
        assert {row.method for row in rows.values()} <= set(METHODS)
    if isinstance(command, cli.Train):
        assert command.run.method in METHODS
        assert config.from_dict(config.to_dict(command.run)) == command.run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!http)([^)#\s]*)#?([^)\s]*)\)", text):
        file = page.parent / target if target else page
        assert file.exists(), target
        headings = [slug(line) for line in re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)] if anchor else []
        assert not anchor or anchor in headings, f"{target}#{anchor}"


def slug(heading: str) -> str:
    """A heading's anchor, as code hosts and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_page_is_in_the_index() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", (ROOT / "docs" / "index.md").read_text())
    reachable = {(ROOT / "docs" / link).resolve() for link in linked}
    notebooks = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))
    assert [p.name for p in (*PAGES[1:], *notebooks) if p.resolve() not in reachable] == ["index.md"]


def test_the_readme_names_what_there_is() -> None:
    text = (ROOT / "README.md").read_text()
    assert set(re.findall(r"^gpvae (\w+)", text, re.MULTILINE)) == set(cli.COMMANDS)
    for path in re.findall(r"`(gpvae_jax/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
