"""The experiment on tuned gradient steps, on tiny runs."""

from pathlib import Path

import pytest

from experiments import gradient_steps
from experiments.elbos import elbos
from gpvae_jax.evaluate.paired import paired
from tests.test_runs import train


@pytest.mark.slow
def test_every_kind_of_steps_is_tuned_on_validation_images_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gradient_steps, "NEWTON_STEPS", (1, 3))
    monkeypatch.setattr(gradient_steps, "KINDS", ((1, 2), (8, 2)))
    monkeypatch.setattr(gradient_steps, "SIZES", (1e-6, 0.03))
    vae = train(tmp_path / "vae", train={"epochs": 3, "batch_size": 8})
    newton = train(tmp_path / "newton-1", method="newton", train={"epochs": 3, "batch_size": 8})
    found = gradient_steps.measure(vae, newton, 6, 8)
    own, more, one, eight = found["rows"]
    assert [row["row"] for row in (own, more)] == ["newton, 1", "newton, 3"]
    assert own["gain"] == paired(elbos(vae, "test", 8), elbos(newton, "test", 8))._asdict()
    assert more["gain"]["mean"] != own["gain"]["mean"]
    for row in (one, eight):
        bounds = row["validation_elbos"]
        assert row["step_size"] == max(bounds, key=lambda size: bounds[size])
        assert row["time"] > 1
    assert eight["validation_elbos"][0.03] > eight["validation_elbos"][1e-6]
    assert gradient_steps.table({"tiny": found}).count("|") == 3 * 6
