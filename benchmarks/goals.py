"""What the library wants to be, each as one number from the result lines: measured, and met or not."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.latency import PYTORCH
from benchmarks.records import Line
from benchmarks.training import SAME_VAE

Measure = Callable[[Sequence[Line]], float | None]


class Goal(NamedTuple):
    """A number from the lines, None where they lack it, and what it must not exceed or fall below."""

    what: str
    measured: Measure
    limit: float
    at_most: bool = True
    unit: str = "×"


def find(lines: Sequence[Line], benchmark: str, row: str, **settings: Any) -> Line | None:
    """The line of a row, whatever settings it has beside those given; None where there is none."""
    for line in lines:
        if (line.benchmark, line.row) == (benchmark, row) and settings.items() <= line.settings.items():
            return None if math.isnan(line.median) else line
    return None


def _ratio(of: tuple, to: tuple, *, over_operations: bool = False, **settings: Any) -> Measure:
    """Median of one row over that of another, and, if asked, over the ratio of their operations."""

    def measured(lines: Sequence[Line]) -> float | None:
        one, other = find(lines, *of, **settings), find(lines, *to, **settings)
        if one is None or other is None:
            return None
        operations = one.details["operations"] / other.details["operations"] if over_operations else 1.0
        return one.median / other.median / operations

    return measured


def _to_fastest_peer(architecture: str) -> Measure:
    def measured(lines: Sequence[Line]) -> float | None:
        ours = find(lines, "training", "vae", architecture=architecture)
        peers = [find(lines, "training", name, architecture=architecture) for name in SAME_VAE]
        speeds = [peer.median for peer in peers if peer is not None]
        return ours.median / max(speeds) if ours is not None and speeds else None

    return measured


def _seconds(row: str) -> Measure:
    def measured(lines: Sequence[Line]) -> float | None:
        line = find(lines, "startup", row)
        return None if line is None else line.median

    return measured


def _latency_goals(architecture: str) -> list[Goal]:
    """The goals of inference in float32, 128 images."""
    at: dict[str, Any] = {"architecture": architecture, "batch": 128, "dtype": "float32"}
    vae, where = ("latency", "vae"), f"{architecture}, batch 128"
    made = []
    for call, words in (("parameters", "q(z|x)"), ("sample", "q(z|x), a sample, its density")):
        measured = _ratio(("latency", "gpvae"), vae, call=call, **at)
        made.append(Goal(f"GPVAE over the VAE: {words}; {where}", measured, 1.15))
    for row, words, limit in (
        ("recmix:num_components=5", "RecMix of 5 components", 1.1),
        ("savi", "SAVI-2", 1.2),
        ("newton", "one Newton step", 1.2),
    ):
        measured = _ratio(("latency", row), vae, over_operations=True, call="sample", **at)
        made.append(Goal(f"{words} over the VAE, over its ratio of operations; {where}", measured, limit))
    return made


GOALS = [
    *_latency_goals("mlp"),
    *_latency_goals("conv"),
    Goal(
        "conv encoder, PyTorch eager's time over ours; batch 128",
        _ratio(
            ("latency", PYTORCH), ("latency", "vae"),
            architecture="conv", batch=128, dtype="float32", call="parameters",
        ),
        1.0,
        at_most=False,
    ),
    Goal("training, images/s over the fastest peer's; conv", _to_fastest_peer("conv"), 1.3, at_most=False),
    Goal("training, images/s over the fastest peer's; mlp", _to_fastest_peer("mlp"), 1.1, at_most=False),
    Goal("import gpvae_jax over import flax", _ratio(("startup", "import gpvae_jax"), ("startup", "import flax")), 1.5),
    Goal(
        "import what training needs over import flax",
        _ratio(("startup", "import what training needs"), ("startup", "import flax")),
        1.5,
    ),
    Goal("gpvae --help", _seconds("gpvae --help"), 2.0, unit="s"),
]  # fmt: skip


def met(goal: Goal, lines: Sequence[Line]) -> tuple[float | None, bool | None]:
    """The number, and whether it is within the limit; None for what was not measured."""
    value = goal.measured(lines)
    if value is None:
        return None, None
    return value, value <= goal.limit if goal.at_most else value >= goal.limit


def table(lines: Sequence[Line]) -> Table:
    """Every goal, what was measured, and whether it is met."""
    made = Table(title="Goals", box=None, title_justify="left")
    for name in ("goal", "limit", "measured", ""):
        made.add_column(name, justify="left" if name == "goal" else "right")
    for goal in GOALS:
        value, good = met(goal, lines)
        verdict = {True: "[green]met[/green]", False: "[red]not met[/red]", None: "[dim]not measured[/dim]"}[good]
        limit = f"{'≤' if goal.at_most else '≥'} {goal.limit:g} {goal.unit}"
        made.add_row(goal.what, limit, "–" if value is None else f"{value:.2f} {goal.unit}", verdict)
    return made
