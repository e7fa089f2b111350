"""Likelihood against inference time: which method is worth its time, from a finished comparison.

    gpvae compare --config experiments/pareto.json --out runs/pareto --num-samples 100 5000 --max-examples 500
    python -m experiments.pareto runs/pareto

Every row of the comparison, its inference time measured anew, interleaved, in units of the first row's (the VAE): the
share of the first row's amortization gap that its ELBO wins back (against the row "svi", where there is one), ELBO and
IWAE bound paired per test image, and the Pareto front of each bound: the rows than which no other is better and as
fast, within a tenth, since times of equal programs differ by as much. Named besides: the best row within 1, 2, 3, 3.5,
5 and 10 times the first one's time. The comparison takes six hours of one CPU core, this some minutes. Writes
experiments/results/pareto.json, .md and .png.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from experiments.command_line import command_line
from experiments.gains import finished, gains, written
from experiments.scatter import BOUNDS, figure, front
from experiments.table1.tables import BUDGETS, SLACK
from gpvae_jax import compare, runs
from gpvae_jax.commands import prepare_jax, save_figure
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.run import example_values
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
    first, *others = compared
    # what others are trained on from is no method of its own
    configs = [run.setup.config for run in compared.values()]
    starts = {Path(config.train.start_from or "").name for config in configs if config.train.epochs}
    compared = {t: compared[t] for t in (first, *(t for t in others if compare.folder_name(t) not in starts))}
    times = {name: found.median for name, found in compare.latencies(compared).items()}
    won = [row for row in gains(command.folder, command.config) if row["name"] in compared]
    methods = {run.folder.name: run.setup.config.method for run in compared.values()}
    rows = _rows(times, won, {t: _family(run, methods) for t, run in compared.items()})
    fronts = {bound: front([row["time"] for row in rows], [row[bound]["mean"] for row in rows]) for bound in BOUNDS}
    best = {f"{budget:g}×": _best_within(rows, budget) for budget in BUDGETS}
    console.print(_table(rows, fronts))
    for budget, names in best.items():
        say(f"within {budget:>4} the first row's time: " + ", ".join(f"{b.upper()} {n}" for b, n in names.items()))
    save_figure(figure(rows, fronts), RESULTS / f"{command.name}.png")
    write_text(RESULTS / f"{command.name}.md", markdown(rows, fronts) + "\n" + budgets(rows, best))
    reference = compared[first]
    found: dict[str, Any] = {
        "rows": rows,
        "front": {b: [rows[i]["name"] for i in f] for b, f in fronts.items()},
        "best_within": best,
    }
    found |= {"test_images": len(next(iter(example_values(reference.folder).values()))[0])}
    found |= {"seeds": reference.setup.config.train.num_seeds or 1, "environment": environment()}
    write_json(RESULTS / f"{command.name}.json", found)


def _family(run: runs.Run, methods: Mapping[str, str]) -> str:
    """The method with its base, and whether it was only put upon a trained run of another method.

    methods: by the name of a run's folder.
    """
    config = run.setup.config
    settings = dict(setting.split("=", 1) for setting in config.settings)
    bases = [settings["base"].partition(",")[0]] if "base" in settings else []
    family = " on ".join([config.method, *bases])
    start = Path(config.train.start_from or "").name
    untrained = config.train.epochs == 0 and config.method not in ("svi", methods.get(start))  # svi is never trained
    return f"{family} at test time" if untrained else family


def _rows(latency: dict[str, float], found: list[dict[str, Any]], families: dict[str, str]) -> list[dict[str, Any]]:
    """The gains with times, the IWAE bound of the most samples as "iwae", and the share of the gap."""
    first, iwae = found[0]["name"], max((n for n in found[0] if n.startswith("iwae_")), key=lambda n: int(n[5:]))
    gap = next((row["elbo"]["gain"] for row in found if row["name"] == "svi"), None)
    return [
        {
            "name": row["name"],
            "family": families[row["name"]],
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


def budgets(rows: list[dict[str, Any]], best: dict[str, dict[str, str]]) -> str:
    """The best rows within each multiple of the first one's time, by ELBO and by IWAE bound, as a table."""
    by_name = {row["name"]: row for row in rows}
    lines = ["| within | by ELBO | time | gain | by IWAE | time | gain |", "|:---|:---|---:|---:|:---|---:|---:|"]
    for budget, names in best.items():
        cells = [
            text
            for bound, name in names.items()
            for text in (name, f"{by_name[name]['time']:,.1f}×", written(by_name[name][bound]))
        ]
        lines.append("| " + " | ".join([budget, *cells]) + " |")
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
    command_line(main, Pareto, __doc__)
