"""A finished comparison as paired gains: every row's bounds less the first row's, image by image.

    python -m experiments.gains runs/gpvae_mnist --config experiments/gpvae.json --name gpvae_mnist

For the ELBO and every IWAE bound: mean difference over the same test images ± its standard error over images, and in
brackets that over seeds; beside it the share of images whose importance estimate is not to be trusted (Pareto
k̂ > 0.7). Rows not yet finished are left out.
Writes experiments/results/NAME.md and NAME.json.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.command_line import command_line
from gpvae_jax import compare, config
from gpvae_jax.evaluate.paired import paired
from gpvae_jax.evaluate.run import example_values
from gpvae_jax.files import write_json, write_text

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Gains:
    """Which comparison."""

    folder: tyro.conf.Positional[Path]
    config: Path
    """The file its rows came from."""
    name: str
    """Of the two files written."""


def main(command: Gains) -> None:
    """Read, write, print."""
    rows = gains(command.folder, command.config)
    first = json.loads((command.folder / compare.folder_name(rows[0]["name"]) / "results.json").read_text())
    kept = {
        key: first[key] for key in ("data", "likelihood", "binarization", "num_examples", "num_seeds", "environment")
    }
    text = markdown(rows)
    RESULTS.mkdir(exist_ok=True)
    write_text(RESULTS / f"{command.name}.md", text)
    write_json(RESULTS / f"{command.name}.json", {"rows": rows} | kept)
    print(text, end="")


def finished(folder: Path, config_file: Path) -> dict[str, Path]:
    """Title -> run folder of the rows that have been evaluated, in the file's order. Raises ValueError without any."""
    settings, labels = config.read(config_file)
    folders = {title: folder / compare.folder_name(title) for title in compare.configs(settings, labels, folder)}
    found = {title: place for title, place in folders.items() if (place / "test.npz").is_file()}
    if not found:
        raise ValueError(f"{folder} holds no evaluated row of {config_file}; make them with gpvae compare --config.")
    return found


def gains(folder: Path, config_file: Path) -> list[dict[str, Any]]:
    """Per finished row: name, and for each bound the mean, and the gain over the first row with both errors (nats)."""
    values = {title: example_values(place) for title, place in finished(folder, config_file).items()}
    first = next(iter(values.values()))
    bounds = ["elbo", *sorted((n for n in first if n.startswith("iwae_")), key=lambda n: int(n[5:]))]
    rows = []
    for title, of in values.items():
        row: dict[str, Any] = {"name": title, "untrusted": float(np.mean(of["pareto_k"] > 0.7))}
        for bound in bounds:
            gain = paired(first[bound], of[bound])
            row[bound] = {"mean": of[bound].mean(), "gain": gain.mean, "se": gain.se, "se_seeds": gain.se_seeds}
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table; the first row in nats, the others as gains over it."""
    bounds = [key for key, value in rows[0].items() if isinstance(value, dict)]
    title = [bound.upper().replace("_", "-") for bound in bounds]
    lines = ["| | " + " | ".join(title) + " | k̂ > 0.7 |", "|---|" + "---:|" * (len(bounds) + 1)]
    for number, row in enumerate(rows):
        cells = [f"{row[b]['mean']:.2f}" if not number else written(row[b]) for b in bounds]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + f" | {100 * row['untrusted']:.0f} % |")
    return "\n".join(lines) + "\n"


def written(value: dict[str, float]) -> str:
    """A gain with its error over images and, in brackets, over seeds."""
    over_seeds = "" if math.isnan(value["se_seeds"]) else f" ({value['se_seeds']:.2f})"
    return f"{value['gain']:+.2f} ± {value['se']:.2f}{over_seeds}"


if __name__ == "__main__":
    command_line(main, Gains, __doc__)
