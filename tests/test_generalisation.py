"""The experiment on gaps by split, on a tiny run: the VAE against itself, and the runs it cannot use."""

from pathlib import Path

import pytest

from experiments import generalisation
from gpvae_jax import runs
from tests.test_config import small
from tests.test_runs import train


@pytest.mark.slow
def test_the_vae_closes_nothing_of_its_own_gap(tmp_path: Path) -> None:
    run = train(tmp_path, train={"epochs": 1, "batch_size": 8})
    found = {split: generalisation.measure(run, {"vae": run}, split, 6) for split in ("train", "test")}
    for of in found.values():
        (row,) = of["rows"].values()
        assert row["share"] == {"mean": 0.0, "se": 0.0}
        assert of["gap"]["mean"] > 0  # one epoch leaves an encoder something to gain
    assert found["train"]["elbo"] != found["test"]["elbo"]
    head, *_, last = generalisation.table(found).splitlines()
    assert head == "|  | train | test |"
    assert last.count("0 ± 0 %") == 2


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (("vae",), "others to hold against it; got 1"),
        (("gpvae", "vae"), "The first run is to be a VAE's, but .* is of gpvae"),
    ],
)
def test_what_cannot_be_compared_is_refused(methods: tuple[str, ...], words: str, tmp_path: Path) -> None:
    for method in methods:
        runs.create(tmp_path / method, small(data={"name": "digits"}, method=method))
    with pytest.raises(ValueError, match=words):
        generalisation.main(generalisation.Generalisation(tuple(tmp_path / method for method in methods)))


@pytest.mark.parametrize(("ranks", "steps"), [((4,), ()), ((4, 99), (2,))])
def test_output_directions_of_the_runs_own_steps_and_of_others(ranks, steps, tmp_path, monkeypatch) -> None:
    """A row each; a rank that the decoder does not have is told before anything is measured."""
    for method in ("vae", "newton"):
        settings = small(data={"name": "digits"}, model={"likelihood": "gaussian"}, method=method, train={"epochs": 1})
        list(runs.records(runs.create(tmp_path / method, settings)))
    asked = []
    monkeypatch.setattr(generalisation, "measure", lambda base, rows, split, images: asked.append(list(rows)))
    monkeypatch.setattr(generalisation, "keep", lambda found, path, images: None)
    command = generalisation.Generalisation((tmp_path / "vae", tmp_path / "newton"), steps=steps, output_ranks=ranks)
    if 99 in ranks:
        with pytest.raises(ValueError, match="from 1 to 8 directions, got 99"):
            generalisation.main(command)
        assert not asked
    else:
        generalisation.main(command)
        assert asked == 3 * [["newton", "newton, 4 output directions"]]
