"""From the finished cells' small files to the page with the tables, and the RecMix paper's Fig. 7.

    python -m experiments.table1.page

Reads experiments/results/table1/SCALE/TABLE/*.json and writes experiments/RESULTS.md, per table the scatter of
likelihood against inference time beside them, and the tables of docs/ that show some of scale cpu. Takes seconds;
nothing on the page is typed but its headings.
"""

import dataclasses
import json
import os
from pathlib import Path

from experiments.command_line import command_line
from experiments.scatter import BOUNDS, figure, front
from experiments.table1.cells import CHOICE_LATENTS, DATASETS, LIKELIHOODS, SCALES
from experiments.table1.claims import CLAIMS
from experiments.table1.excerpts import SHOWN, Tables, fill
from experiments.table1.overview import overview
from experiments.table1.tables import latency, nats, read, scatter_rows, section, settings, styles
from experiments.table1.work import RESULTS
from gpvae_jax.commands import save_figure
from gpvae_jax.files import write_text


@dataclasses.dataclass(frozen=True)
class Page:
    """What is read and written."""

    results: Path = RESULTS
    out: Path = Path(__file__).parents[1] / "RESULTS.md"
    docs: Path = Path(__file__).parents[2] / "docs"


def main(command: Page) -> None:
    """Write the page and its figures."""
    parts = [_HEAD + _order() + _scales(command.results)]
    of_scales = {budget: tables_of(command.results / budget) for budget in SCALES}
    for budget, tables in of_scales.items():
        if tables:
            parts.append(overview(budget, [rows for rows, _ in tables.values()]))
        for name, (rows, times) in tables.items():
            picture = command.results / budget / f"{name}.png"
            points = scatter_rows(rows, times)
            fronts = {bound: front([p["time"] for p in points], [p[bound]["gain"] for p in points]) for bound in BOUNDS}
            save_figure(figure(points, fronts, styles()), picture)
            parts += [section(budget, rows, times), f"![likelihood against time]({_from(command.out, picture)})\n"]
        if choices := _choices(command.results / budget):
            parts.append(choices)
    if len(parts) == 1:
        raise ValueError(
            f"{command.results} holds no finished row beside its VAE; run python -m experiments.table1 first."
        )
    pages = {path: fill(path.read_text(), of_scales[SHOWN]) for path in sorted(command.docs.glob("*.md"))}
    for path, text in (pages | {command.out: "\n".join(parts)}).items():
        write_text(path, text)
    print(f"Written: {command.out}")


def tables_of(folder: Path) -> Tables:
    """The tables of a scale that have the VAE and another row, as the queue orders them."""
    found = {table: rows for table in _in_order(folder) if "vae" in (rows := read(table)) and len(rows) > 1}
    return {table.name: (rows, latency(table, rows)) for table, rows in found.items()}


_HEAD = """# Test likelihood and inference time

Made by `python -m experiments.table1.page` from what the cells of `python -m experiments.table1` left.

* Bounds in nats per image: mean ± standard error over images (over training seeds).
* Gains are over the VAE, image by image and seed by seed, in the IWAE bound of the most samples; in bold where p < 0.05
  (Wilcoxon signed-rank test over images, Holm-corrected for the table) and Student's 95 % interval over seeds
  leaves out zero (of three seeds it is 4.3 of the errors in brackets to either side, of ten 2.3).
* Part of every difference between IWAE bounds is that of the proposals, so look at the ELBO beside it; k̂ > 0.7 is the
  share of images whose importance estimate is not to be trusted.
* Of the gap: the gain in ELBO over the VAE, as a share of the VAE's amortization gap, which is what each image's own
  best diagonal Gaussian (SVI, on the VAE's decoder) wins over the encoder's. A method trained through can pass 100 %.
* In the figures bars are the standard errors, over images, of the gains; the line joins the rows, named, than which no
  other is better and as fast, within a tenth.
* Times: posterior of a batch, one sample and its density, median; in brackets, in the VAE's. All rows of a table were
  measured in turn; a row that was added since has a dash.
* Training times are of all seeds together, and of whatever else a machine did meanwhile.
* Settings were chosen on validation images; the trials are at the end.
* Rows: "wide vae" has an encoder as large as three; "iterative" is one step that a network chooses which sees the
  gradient; "recmix 3 of one trunk" is three heads on one encoder; "on gpvae" and "of gpvae" put one method over
  another. Numbers count steps, flows or components.
"""


def _order() -> str:
    """What the sentence under each table holds its rows against."""
    return f"* The papers' order: {', '.join(f'{better} above {worse}' for better, worse in CLAIMS)}.\n"


def _scales(results: Path) -> str:
    """What the scales with results stand for."""
    lines = [
        f"* Scale {name}: {scale.architecture} networks ({'-'.join(map(str, scale.hidden))}), a VAE of "
        f"{scale.start_epochs} epochs from which the rows go on for {scale.epochs} (the wide VAE, which cannot, trains "
        f"for both), {scale.num_seeds} seeds, {scale.test_examples} test images.\n"
        for name, scale in SCALES.items()
        if (results / name).is_dir() and scale.warm
    ]
    return "".join(lines)


def _in_order(folder: Path) -> list[Path]:
    """The tables of a scale, as the queue orders them."""
    order = {f"{data}-{name}": (i, j) for i, data in enumerate(DATASETS) for j, name in enumerate(LIKELIHOODS)}

    def place(path: Path) -> tuple[int, int, int]:
        table, _, latents = path.name.rpartition("-")
        return (*order[table], int(latents))

    return sorted((path for path in folder.glob("*") if path.is_dir()), key=place)


def _choices(folder: Path) -> str:
    """The trials behind the settings, the chosen ones in bold."""
    lines = []
    for table in _in_order(folder) if folder.is_dir() else ():
        for path in sorted(table.glob("choice-*.json")):
            found = json.loads(path.read_text())
            for end, bound in found["trials"].items():
                shown = "–" if bound is None else f"{bound:.2f}".replace("-", "−")
                shown = f"**{shown}**" if end == found["chosen"] else shown
                over = found["over_the_first"].get(end)
                cells = [table.name, found["cell"]["title"], settings(":" + end), shown, nats(over)]
                lines.append("| " + " | ".join(cells) + " |")
    if not lines:
        return ""
    title = f"## The choice of settings, scale {folder.name}"
    what = (
        f"IWAE bound on validation images after short runs, at {CHOICE_LATENTS} latents, and what it is above the "
        "family's first settings: mean ± standard error over images (over seeds); nats."
    )
    head = ["| table | family | settings | bound | over the first |", "|:---|:---|:---|---:|---:|"]
    return "\n".join([title, "", what, "", *head, *lines, ""])


def _from(page: Path, picture: Path) -> str:
    return Path(os.path.relpath(picture, page.parent)).as_posix()


if __name__ == "__main__":
    command_line(main, Page, __doc__)
