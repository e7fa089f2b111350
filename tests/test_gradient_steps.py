"""The experiment on tuned gradient steps, on tiny runs."""

from pathlib import Path

import pytest

from experiments import gradient_steps
from tests.test_runs import train


@pytest.mark.slow
def test_every_kind_of_steps_is_tuned_on_validation_images_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gradient_steps, "KINDS", ((1, 2), (8, 2)))
    monkeypatch.setattr(gradient_steps, "SIZES", (1e-6, 0.03))
    vae = train(tmp_path / "vae", train={"epochs": 3, "batch_size": 8})
    newton = train(tmp_path / "newton-1", method="newton", train={"epochs": 3, "batch_size": 8})
    found = gradient_steps.measure(vae, newton, 6, 8)
    first, one, eight = found["rows"]
    assert first["row"] == "newton"
    for row in (one, eight):
        bounds = row["validation_elbos"]
        assert row["step_size"] == max(bounds, key=lambda size: bounds[size])
        assert row["time"] > 1
    assert eight["validation_elbos"][0.03] > eight["validation_elbos"][1e-6]
    assert gradient_steps.table({"tiny": found}).count("|") == 3 * 5
