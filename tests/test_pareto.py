"""Likelihood against time: which rows are on the front, and what is shown of them."""

from typing import Any

import numpy as np
import pytest

from experiments.pareto import budgets, markdown
from experiments.scatter import figure, front
from experiments.table1.tables import SLACK


def row(name: str, time: float, gain: float, family: str = "vae", share: float | None = None) -> dict[str, Any]:
    value = {"mean": gain - 100, "gain": gain, "se": 0.1, "se_seeds": 0.2}
    own = {"name": name, "family": family, "time": time, "ms": time, "share_of_gap": share}
    return own | {"elbo": value, "iwae": value}


ROWS = [
    row("vae", 1.0, 0.0),
    row("slow and worse", 4.0, 1.0, "savi"),
    row("step", 3.0, 2.0, "newton", share=0.5),
    row("harm", 5.0, -30.0, "savi"),
    row("svi", 900.0, 4.0, "svi", share=1.0),
]


def test_the_front_has_what_no_other_beats() -> None:
    times, values = [row["time"] for row in ROWS], [row["elbo"]["mean"] for row in ROWS]
    assert front(times, values) == [0, 2, 4]


@pytest.mark.parametrize("seed", range(3))
def test_the_front_is_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, values = rng.integers(1, 20, 40).tolist(), rng.integers(0, 20, 40).tolist()
    kept = front(times, values)
    points = [(times[i], values[i]) for i in kept]
    assert points == sorted(points)
    for i, (time, value) in enumerate(zip(times, values, strict=True)):
        beaten = any(t <= SLACK * time and v > value for t, v in zip(times, values, strict=True))
        assert beaten or (value in [v for t, v in points if t <= time])
        assert not (beaten and i in kept)


def test_a_row_as_fast_but_for_noise_and_worse_is_not_on_the_front() -> None:
    assert front([1.0, 0.98, 3.0, 3.2, 3.6], [0.0, -0.2, 2.0, 2.1, 2.2]) == [0, 3, 4]


def test_tables_and_figure_tell_of_every_row() -> None:
    fronts = {"elbo": [0, 2, 4], "iwae": [0, 2, 4]}
    text = markdown(ROWS, fronts)
    assert "| step | 3.0× | **+2.00 ± 0.10 (0.20)** | 50 % |" in text
    assert "| slow and worse | 4.0× | +1.00 ± 0.10 (0.20) |" in text
    best = {"1×": {"elbo": "vae", "iwae": "vae"}, "3.5×": {"elbo": "step", "iwae": "step"}}
    assert "| 3.5× | step | 3.0× | +2.00 ± 0.10 (0.20) |" in budgets(ROWS, best)
    drawn = figure(ROWS, fronts)
    written = [text.get_text() for axes in drawn.axes for text in axes.texts]
    assert [written.count(name) for name in ("step", "svi", "slow and worse")] == [2, 2, 0]
    assert "below: harm (−30.0)" in written
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["vae", "savi", "newton", "svi"]
