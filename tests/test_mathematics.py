"""The docstrings and docs/mathematics.md speak of the same equations, with the same source."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "mathematics.md").read_text()
TAGS = re.findall(r"\\tag\{(\d+\.\d+)\}", PAGE)
CITATION = re.compile(r"\beqs?\. (\d+\.\d+(?:(?:, | and )\d+\.\d+)*)(?:, (paper|derived))?")
MODULES = sorted(path for folder in ("gpvae_jax", "experiments") for path in (ROOT / folder).rglob("*.py"))


def sources() -> dict[str, set[str]]:
    """The list at the page's end: equation -> the sources it is listed under."""
    table = PAGE.partition("## Where the equations come from")[2]
    listed: dict[str, set[str]] = defaultdict(set)
    for kind, numbers in re.findall(r"^\| (\w+)[^|]*\| ([\d., ]+) \|$", table, re.MULTILINE):
        for number in numbers.split(", "):
            listed[number].add(kind)
    return listed


def cited(path: Path) -> list[tuple[str, str]]:
    """(equation, source or "") for each citation in a module's docstrings and comments."""
    text = re.sub(r"\s+", " ", path.read_text())
    return [(number, source) for numbers, source in CITATION.findall(text) for number in re.findall(r"[\d.]+", numbers)]


def test_equations_are_numbered_in_order_and_each_has_one_source() -> None:
    places = [tuple(int(part) for part in tag.split(".")) for tag in TAGS]
    assert places == sorted(set(places))
    for section in {place[0] for place in places}:
        assert [n for s, n in places if s == section] == list(range(1, 1 + sum(s == section for s, _ in places)))
    listed = sources()
    assert sorted(listed) == sorted(TAGS)
    assert [number for number, kinds in listed.items() if len(kinds) > 1] == []


def test_every_equation_is_cited_or_background() -> None:
    listed = sources()
    used = {number for path in MODULES for number, _ in cited(path)}
    assert used - set(TAGS) == set()
    assert {number for number in TAGS if listed[number] == {"background"}} == set(TAGS) - used


@pytest.mark.parametrize("path", [p for p in MODULES if cited(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_citations_say_the_pages_source_and_where_the_page_is(path: Path) -> None:
    listed = sources()
    for number, source in cited(path):
        assert listed[number] == {source or "standard"}, number
    assert "docs/mathematics.md" in (ast.get_docstring(ast.parse(path.read_text())) or "")


def test_the_page_speaks_of_equations_that_are_there() -> None:
    body = re.sub(r"```math.*?```", "", PAGE, flags=re.DOTALL)
    assert set(re.findall(r"\((\d\.\d+)\)", body)) <= set(TAGS)
