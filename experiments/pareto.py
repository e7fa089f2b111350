"""Likelihood against inference time: which method is worth its time, from a finished comparison.

    gpvae compare --config experiments/pareto.json --out runs/pareto --num-samples 100 5000 --max-examples 1000
    python -m experiments.pareto runs/pareto

Every row of the comparison, its inference time measured anew, interleaved, in units of the first row's (the VAE): the
share of the first row's amortization gap that its ELBO wins back (against the row "svi", where there is one), ELBO and
IWAE bound paired per test image, and the Pareto front of each bound: the rows that no other beats in both. Named
besides: the best row within 1, 2, 3, 3.5, 5 and 10 times the first one's time. The comparison takes hours on a CPU,
this a minute. Writes experiments/results/pareto.json, .md and .png.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.table import Table

from experiments.gains import finished, gains, written
from experiments.table1.tables import BUDGETS, SLACK
from gpvae_jax import compare, plots, runs
from gpvae_jax.commands import prepare_jax, save_figure
from gpvae_jax.environment import environment
from gpvae_jax.files import write_json, write_text
from gpvae_jax.progress import console, say

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Pareto:
    """Which comparison."""

    folder: tyro.conf.Positional[Path]
    config: Path = Path(__file__).parent / "pareto.json"
    name: str = "pareto"
    """Of the files written."""


def main(command: Pareto) -> None:
    """Measure, print and draw."""
    prepare_jax()
    compared = {t: runs.open_run(f) for t, f in finished(command.folder, command.config).items()}
    made = compare.rows(compared)
    rows = _rows({row.name: float(row.latency_ms or np.nan) for row in made}, gains(command.folder, command.config))
    fronts = {
        bound: front([row["time"] for row in rows], [row[bound]["mean"] for row in rows]) for bound in ("elbo", "iwae")
    }
    best = {f"{budget}×": _best_within(rows, budget) for budget in BUDGETS}
    console.print(_table(rows, fronts))
    for budget, names in best.items():
        say(f"within {budget:>3} the first row's time: " + ", ".join(f"{b.upper()} {n}" for b, n in names.items()))
    save_figure(plots.likelihood_against_time(made), RESULTS / f"{command.name}.png")
    found = {"rows": rows, "front": {b: [rows[i]["name"] for i in f] for b, f in fronts.items()}, "best_within": best}
    write_text(RESULTS / f"{command.name}.md", markdown(rows, fronts))
    first = next(iter(compared.values()))
    found |= {"test_images": made[0].num_examples, "seeds": first.setup.config.train.num_seeds or 1}
    write_json(RESULTS / f"{command.name}.json", found | {"environment": environment()})


def front(times: list[float], values: list[float]) -> list[int]:
    """Indices, by rising time, of the points that no other is as fast as and better than."""
    order, best, kept = sorted(range(len(times)), key=lambda i: (times[i], -values[i])), -np.inf, []
    for i in order:
        if values[i] > best:
            best = values[i]
            kept.append(i)
    return kept


def _rows(latency: dict[str, float], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The gains with times, the IWAE bound of the most samples as "iwae", and the share of the gap."""
    first, iwae = found[0]["name"], max((n for n in found[0] if n.startswith("iwae_")), key=lambda n: int(n[5:]))
    gap = next((row["elbo"]["gain"] for row in found if row["name"] == "svi"), None)
    return [
        {
            "name": row["name"],
            "time": latency[row["name"]] / latency[first],
            "ms": latency[row["name"]],
            "elbo": row["elbo"],
            "iwae": row[iwae],
            "share_of_gap": None if gap is None else row["elbo"]["gain"] / gap,
        }
        for row in found
    ]


def _best_within(rows: list[dict[str, Any]], budget: float) -> dict[str, str]:
    within = [row for row in rows if row["time"] <= SLACK * budget]
    return {bound: max(within, key=lambda row: row[bound]["mean"])["name"] for bound in ("elbo", "iwae")}


def markdown(rows: list[dict[str, Any]], fronts: dict[str, list[int]]) -> str:
    """The table for a page: gains over the first row, those on a front in bold."""
    lines = ["| row | time | ELBO gain | share of the gap | IWAE gain |", "|:---|---:|---:|---:|---:|"]
    for i, row in enumerate(rows):
        elbo, iwae = (f"**{written(row[b])}**" if i in fronts[b] else written(row[b]) for b in ("elbo", "iwae"))
        lines.append(f"| {row['name']} | {row['time']:,.1f}× | {elbo} | {_share(row)} | {iwae} |")
    return "\n".join(lines) + "\n"


def _share(row: dict[str, Any]) -> str:
    return "" if row["share_of_gap"] is None else f"{100 * row['share_of_gap']:.0f} %"


def _table(rows: list[dict[str, Any]], fronts: dict[str, list[int]]) -> Table:
    table = Table(
        "row", "time", "ELBO gain", "share of gap", "IWAE gain", "on the front of", title="against the first row"
    )
    for i, row in enumerate(rows):
        on = ", ".join(bound.upper() for bound, kept in fronts.items() if i in kept)
        table.add_row(row["name"], f"{row['time']:.2f}×", written(row["elbo"]), _share(row), written(row["iwae"]), on)
    return table


if __name__ == "__main__":
    main(tyro.cli(Pareto, description=__doc__))
