"""The experiment on output directions, on tiny runs: its table, and the runs it cannot use."""

from pathlib import Path

import pytest

from experiments import output_rank
from gpvae_jax import runs
from tests.test_config import DATA, small
from tests.test_runs import train


@pytest.mark.slow
def test_every_direction_is_the_exact_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "load_data", lambda settings: DATA)
    changes = {"model": {"likelihood": "gaussian", "hidden": (8, 8)}, "data": {"binarization": "none"}}
    methods = ("vae", "newton", "gpvae")
    for method in methods:
        train(tmp_path / method, method=method, train={"epochs": 1, "batch_size": 8}, **changes)
    folders = tuple(tmp_path / method for method in methods)
    command = output_rank.OutputRank(
        folders, images=6, steps=(1, 2), ranks=(8,), hidden_ranks=(8,), results=tmp_path, name="x"
    )
    output_rank.main(command)
    head, _, *lines = (tmp_path / "output_rank_x.md").read_text().splitlines()
    assert head == "| run | steps | directions | time | ELBO gain | of the gap |"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    of_newton = [["newton", k, r] for k in "12" for r in ("exact", "8", "8, 8")]
    assert [row[:3] for row in cells] == [*of_newton, ["gpvae", "–", "–"]]
    for exact, every, every_hidden in (cells[:3], cells[3:6]):
        assert exact[4:] == every[4:] == every_hidden[4:]
    assert cells[0][4:] != cells[3][4:]


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (("vae",), "others to hold against it; got 1"),
        (("newton", "vae"), "The first run is to be a VAE's, but .* is of newton"),
    ],
)
def test_what_cannot_be_measured_is_refused(methods: tuple[str, ...], words: str, tmp_path: Path) -> None:
    for method in methods:
        runs.create(tmp_path / method, small(data={"name": "digits"}, method=method))
    with pytest.raises(ValueError, match=words):
        output_rank.main(output_rank.OutputRank(tuple(tmp_path / method for method in methods)))
