"""The experiment on annealed evidence, on a tiny run held against itself, and the runs it cannot use."""

from pathlib import Path

import pytest

from experiments import annealed
from gpvae_jax import runs
from gpvae_jax.evaluate.run import evaluate_run
from tests.test_config import small
from tests.test_runs import train


@pytest.mark.slow
def test_a_run_gains_nothing_over_itself(tmp_path: Path) -> None:
    run = train(tmp_path / "vae", train={"epochs": 1, "batch_size": 8})
    evaluate_run(run, num_samples=(3, 5), max_examples=6)
    command = annealed.Annealed((run.folder,), images=6, temperatures=5, chains=2, bracketed=3)
    values = annealed.bounds(run, command)
    found = annealed.compared({"vae": values, "again": dict(values)})
    assert {name: kind["over"]["mean"] for name, kind in found["again"].items()} == {"AIS": 0.0, "IWAE-5": 0.0}
    assert annealed.bracket(run, command)["mean"] > 0  # so few temperatures leave it wide open
    with pytest.raises(ValueError, match="evaluated on 6 images and annealed on 9"):
        annealed.bounds(run, annealed.Annealed((run.folder,), images=9, temperatures=5, chains=2))


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    runs.create(folder, small(data={"name": "digits"}))
    with pytest.raises(ValueError, match="Give the folders of evaluated runs"):
        annealed.main(annealed.Annealed(()))
    with pytest.raises(ValueError, match="has not been evaluated; run gpvae evaluate"):
        annealed.main(annealed.Annealed((folder,)))
    (folder / "test.npz").touch()
    with pytest.raises(ValueError, match="folders have one name"):
        annealed.main(annealed.Annealed((folder, folder)))
