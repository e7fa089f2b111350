"""The notebooks run and hold what they show; the site builds without a warning and fetches nothing."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.run_notebooks import FOLDER, METADATA, execute

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_those_of_one_run_from_top_to_bottom(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert notebook["metadata"] == METADATA
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert notebook["cells"][0]["cell_type"] == "markdown"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path) -> None:
    # a picture where there was one, text where there was some
    assert [kinds(cell) for cell in execute(path).cells] == [kinds(c) for c in json.loads(path.read_text())["cells"]]


def kinds(cell: dict) -> list[list[str]]:
    """Of a cell's outputs; text that comes in several pieces, as it does when it comes slowly, counts once."""
    each = (sorted(output.get("data", {output["output_type"]: None})) for output in cell.get("outputs", []))
    return [kind for kind, _ in itertools.groupby(each)]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "-c", "docs", ".", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "index.html").read_text()
    assert "Train a variational autoencoder" in front
    assert 'id="eq-6.11"' in (tmp_path / "docs" / "mathematics.html").read_text()
    assert "mathematics.html#eq-6.11" in (tmp_path / "docs" / "api" / "gpvae_jax.gp.html").read_text()
    scripts = [page for page in tmp_path.rglob("*.html") if "https://cdn" in page.read_text()]
    assert scripts == []  # nothing is fetched by a reader's browser
