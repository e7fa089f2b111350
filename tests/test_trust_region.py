"""The trust-region experiment on a tiny run: the same images with and without P, and the runs it cannot use."""

from pathlib import Path

import numpy as np
import pytest

from experiments import trust_region
from gpvae_jax import runs
from tests.test_config import small
from tests.test_runs import train


@pytest.mark.slow
def test_steps_with_and_without_the_gps_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_region, "DRAWS", 20)
    run = train(tmp_path, method="gpvae", train={"epochs": 2, "batch_size": 8})
    found = trust_region.measure(run, 6)
    for row in found["steps"].values():
        assert row["gain_with_gp"]["mean"] - row["gain"]["mean"] == pytest.approx(row["gp_over_none"]["mean"])
        assert 0 <= row["worse"] <= 1
        assert np.isfinite(row["worst"])
    assert found["steps"][trust_region.ONE]["gain"]["mean"] > 0  # two epochs leave an encoder something to gain
    assert "GP uncertainty" in found["second_step"]["efficiency"]


def test_another_methods_run_is_refused(tmp_path: Path) -> None:
    runs.create(tmp_path, small(data={"name": "digits"}))
    with pytest.raises(ValueError, match=r"A GPVAE run is needed, but .* is of vae"):
        trust_region.main(trust_region.TrustRegion((tmp_path,)))
