"""The experiment on Newton steps at test time, on a tiny run, and the runs it cannot use."""

from pathlib import Path

import pytest

from experiments import at_test_time
from gpvae_jax import runs
from tests.test_config import small
from tests.test_runs import train


@pytest.mark.slow
def test_every_kind_of_step_is_held_against_the_amortized_posterior(tmp_path: Path) -> None:
    run = train(tmp_path, train={"epochs": 1, "batch_size": 8})
    found = at_test_time.measure(run, 6)
    assert len(found["newton"]) == len(at_test_time.INNER) * len(at_test_time.COVARIANCES)
    best = {row["covariance"]: row["gain"]["mean"] for row in found["svi"]}
    assert 0 < best["diagonal"] < best["full"] + 0.05  # the full Gaussians contain the diagonal ones; 200 draws each
    on_draws = {r["covariance"]: r["gain"]["mean"] for r in found["newton"] if r["inner_samples"] == 16}
    assert all(gain > 0 for gain in on_draws.values())
    assert at_test_time.table(found).count("\n") == 2 + len(at_test_time.INNER)


def test_another_methods_run_is_refused(tmp_path: Path) -> None:
    runs.create(tmp_path / "run", small(data={"name": "digits"}, method="gpvae"))
    with pytest.raises(ValueError, match=r"A VAE's run is needed, but .* is of gpvae"):
        at_test_time.main(at_test_time.AtTestTime(tmp_path / "run"))
