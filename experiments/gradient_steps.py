"""SAVI's plain gradient steps on trained VAEs, their step size chosen on validation images, against a Newton step.

    python -m experiments.gradient_steps runs/table1/cpu/{mnist-bernoulli-20,mnist-gaussian-10,omniglot-gaussian-20}
    python -m experiments.gradient_steps runs/mine --vae vae-20 --newton newton-affine-20 --name mine

Each folder holds two runs from a common start, `vae` and `newton-1` if they are not called otherwise. One, two and
eight gradient steps are taken from the VAE's posterior with nothing trained, on two draws each (`savi`'s default in
training) and eight on eight draws; of the step sizes the one with the best ELBO of the first validation images is
taken. Gains in ELBO over the VAE on the first test images, paired; and the same of the run that was trained through one
Newton step, taking one, two, three and five of it. Times of all posteriors, one sample and its density, interleaved, in
units of the VAE's.

Five minutes per folder on one CPU core, for three seeds, 200 and 500 images. Expected: with eight tuned steps a large
share of the gap, most of all with a Gaussian likelihood, for 25 to 150 times the VAE's time, and in no table more, but
for its error, than five Newton steps, which take 9 to 18 times. Writes
experiments/results/gradient_steps.json and .md, with a name gradient_steps_NAME.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.command_line import command_line
from experiments.elbos import elbos, open_paired
from experiments.table1.tables import nats
from gpvae_jax import compare, runs
from gpvae_jax.commands import prepare_jax
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.paired import paired
from gpvae_jax.files import write_json, write_text
from gpvae_jax.progress import bars, console
from gpvae_jax.refine import refined, with_steps

RESULTS = Path(__file__).parent / "results"
NEWTON_STEPS = (1, 2, 3, 5)  # the first is what it was trained through
KINDS = ((1, 2), (2, 2), (8, 2), (8, 8))  # gradient steps, draws a step
SIZES = (0.003, 0.01, 0.03, 0.1, 0.3)


@dataclasses.dataclass(frozen=True)
class GradientSteps:
    """Which tables' runs."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    validation_images: int = 200
    images: int = 500
    vae: str = "vae"
    newton: str = "newton-1"
    name: str | None = None
    results: Path = RESULTS


def main(command: GradientSteps) -> None:
    """Choose, measure, print the table and keep it."""
    prepare_jax()
    pairs = {folder.name: open_paired([folder / command.vae, folder / command.newton]) for folder in command.folders}
    found = {}
    with bars() as progress:
        task = progress.add_task("tables", total=len(pairs), text="")
        for name, (vae, newton) in pairs.items():
            progress.update(task, text=name)
            found[name] = measure(vae, newton, command.validation_images, command.images)
            progress.advance(task)
    text = table(found)
    console.print(text)
    command.results.mkdir(parents=True, exist_ok=True)
    stem = "gradient_steps" if command.name is None else f"gradient_steps_{command.name}"
    write_text(command.results / f"{stem}.md", text + "\n")
    kept = {"validation_images": command.validation_images, "images": command.images, "environment": environment()}
    write_json(command.results / f"{stem}.json", kept | {"tables": found})


def measure(vae: runs.Run, newton: runs.Run, validation_images: int, images: int) -> dict[str, Any]:
    """The Newton step, more of it, and every kind of gradient steps at the chosen size: gains in nats, times."""
    amortized = elbos(vae, "test", images)
    stepped = {f"newton, {k}": with_steps(newton, k) for k in NEWTON_STEPS}
    rows: list[dict[str, Any]] = []
    for title, run in stepped.items():
        rows.append({"row": title, "gain": paired(amortized, elbos(run, "test", images))._asdict()})
    timed = {"vae": vae} | stepped
    for steps, draws in KINDS:
        tried = {size: _stepped(vae, steps, draws, size) for size in SIZES}
        bounds = {size: float(np.mean(elbos(run, "validation", validation_images))) for size, run in tried.items()}
        best = max(bounds, key=lambda size: bounds[size])
        title = f"gradient, {steps} of {draws} draws"
        timed[title] = tried[best]
        gain = paired(amortized, elbos(tried[best], "test", images))._asdict()
        rows.append({"row": title, "step_size": best, "validation_elbos": bounds, "gain": gain})
    times = {title: found.median for title, found in compare.latencies(timed).items()}
    return {"elbo": float(amortized.mean()), "rows": [r | {"time": times[r["row"]] / times["vae"]} for r in rows]}


def _stepped(vae: runs.Run, steps: int, draws: int, size: float) -> runs.Run:
    return refined(vae, "savi", steps, (f"inner_samples={draws}", f"step_size={size}"))


def table(found: dict[str, Any]) -> str:
    """Markdown: a row per table, a column per kind of steps, with the time and the chosen size."""
    titles = [row["row"] for row in next(iter(found.values()))["rows"]]
    lines = ["|  | " + " | ".join(titles) + " |", "|:---|" + "---:|" * len(titles)]
    for name, of in found.items():
        cells = []
        for row in of["rows"]:
            size = f", size {row['step_size']:g}" if "step_size" in row else ""
            cells.append(f"{nats(row['gain'])}, {row['time']:.1f}×{size}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(main, GradientSteps, __doc__)
