"""One table of the page, from what its finished rows left."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from experiments.table1.cells import BY_TITLE
from experiments.table1.claims import Results, gain, gains, gap, marked, sentence, share
from gpvae_jax.evaluate.paired import Paired
from gpvae_jax.plots.style import Style, method_styles

BUDGETS = (1, 2, 3, 3.5, 5, 10)  # times the VAE's inference time
SLACK = 1.1  # times of equal programs differ by as much


class Times(NamedTuple):
    """Inference times of a table's rows."""

    batch: int
    median: dict[str, float]  # milliseconds


def read(folder: Path) -> Results:
    """Title -> result of a table's finished rows, in the order of the list of rows."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    by_title = {f["cell"]["title"]: f for f in found if f["cell"]["kind"] == "row"}
    return {title: by_title[title] for title in reading_order() if title in by_title}


def latency_file(folder: Path) -> Path:
    """Where the inference times of a table are."""
    return folder.with_suffix(".latency.json")


def latency(folder: Path, rows: Results) -> Times:
    """Their inference times as far as they have been measured; raises ValueError, one sentence, without the VAE's."""
    path = latency_file(folder)
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"batch": 0, "latency_ms": {}}
    if "vae" not in found["latency_ms"]:
        raise ValueError(f"{folder.name} has no inference time of its VAE; run python -m experiments.table1.latency.")
    return Times(found["batch"], {title: v["median"] for title, v in found["latency_ms"].items() if title in rows})


def reading_order() -> list[str]:
    """Rows of one family together, by their order."""
    families = list(dict.fromkeys(row.family for row in BY_TITLE.values()))
    return sorted(BY_TITLE, key=lambda t: (is_composed(t), families.index(BY_TITLE[t].family), t))


def family(title: str) -> str:
    """What rows of one look have in common; a composition is a family of its own."""
    return title if is_composed(title) else BY_TITLE[title].family


def styles() -> dict[str, Style]:
    """One look per family, the same in every table."""
    return method_styles(map(family, reading_order()))


def is_composed(title: str) -> bool:
    """Whether it is one method over another."""
    return "base=" in BY_TITLE[title].label


def scatter_rows(rows: Results, times: Times) -> list[dict[str, Any]]:
    """What the scatter needs to know of each row whose time was measured."""
    found = []
    for title in (title for title in rows if title in times.median):
        bounds = {"elbo": gain(rows, title, "vae", "elbo"), "iwae": gain(rows, title, "vae")}
        won = {name: {"gain": of.mean, "se": of.se} for name, of in bounds.items()}
        ratio = times.median[title] / times.median["vae"]
        found.append({"name": title, "family": family(title), "time": ratio} | won)
    return found


def section(budget: str, rows: Results, times: Times) -> str:
    """One table with its heading, what was run, and how its order stands to the papers'."""
    first = rows["vae"]
    cell, bounds = first["cell"], ["elbo", *(f"iwae_{k}" for k in first["num_samples"])]
    over_vae = gains(rows)
    head = ["method", *(bound.upper().replace("_", "-") for bound in bounds), "over the VAE", "p", "of the gap"]
    head += ["k̂ > 0.7", f"ms per {times.batch}", "training (s)", "settings"]
    lines = ["| " + " | ".join(head) + " |", "|:---|" + "---:|" * (len(head) - 2) + ":---|"]
    for title, found in rows.items():
        cells = [marked(rows, title), *(_bound(found["test"][bound]) for bound in bounds)]
        cells += [_gain(over_vae.get(title)), _p(over_vae.get(title)), share_of_gap(rows, title)]
        cells += _rest(title, found, times)
        lines.append("| " + " | ".join(cells) + " |")
    title = f"## {cell['data']}, {cell['likelihood']} likelihood, {cell['latents']} latents"
    parts = [title, _what(budget, rows), "\n".join(lines), *_footnote(rows), sentence(rows), best_within(rows, times)]
    return "\n\n".join(parts) + "\n"


def _footnote(rows: Results) -> list[str]:
    """What the dagger means, where there is one."""
    if all(title == marked(rows, title) for title in rows):
        return []
    return [
        "† From another training of the start than the VAE's row, or not known to be from the same: the difference to "
        "other rows contains what rounding has made of that training."
    ]


def best_within(rows: Results, times: Times) -> str:
    """Within each budget the row with the highest validation ELBO, compositions among them."""
    lines = ["| within | best | time | ELBO over the VAE | IWAE over the VAE |", "|:---|:---|---:|---:|---:|"]
    ratios = {title: time / times.median["vae"] for title, time in times.median.items()}
    for budget in BUDGETS:
        within = [title for title in ratios if ratios[title] <= SLACK * budget]
        best = max(within, key=lambda title: rows[title]["validation_elbo"])
        bounds = ("elbo", None) if best != "vae" else ()
        won = [nats(gain(rows, best, "vae", bound)._asdict()) for bound in bounds] or ["–", "–"]
        lines.append("| " + " | ".join([f"{budget:g}×", marked(rows, best), f"{ratios[best]:.1f}×", *won]) + " |")
    head = "The highest validation ELBO within a multiple of the VAE's inference time (and a tenth of it, for noise):"
    return "\n".join([head, "", *lines])


def _machine(environment: dict[str, Any]) -> str:
    """What computed: the processor, which the oldest rows do not name, or the accelerator."""
    on_cpu = environment["backend"] == "cpu"
    return environment.get("processor", environment["device"]) if on_cpu else environment["device"]


def _what(budget: str, rows: Results) -> str:
    """What was run, and where."""
    first = rows["vae"]
    of = [found["environment"] for found in rows.values()]
    commits = sorted({str(environment["commit"]) for environment in of})
    devices = sorted({f"{_machine(environment)} ({environment['cpus']} cores)" for environment in of})
    text = (
        f"Scale {budget}: {first['scale']['architecture']} networks, {first['num_seeds']} seeds, "
        f"{first['num_examples']} test images; on {' and '.join(devices)}; commit {', '.join(commits)}."
    )
    of_gap = len(first["values"]["amortization_gap"]["images"])
    text += f" The VAE's amortization gap: {nats(gap(rows)._asdict())} nats on {of_gap} of the images."
    return text if len(rows) == len(BY_TITLE) else f"{text} {len(rows)} of {len(BY_TITLE)} rows are done."


def _rest(title: str, found: dict[str, Any], times: Times) -> list[str]:
    """Trustworthiness, times, and settings of a row."""
    untrusted, own = found["untrusted"], times.median.get(title)
    return [
        "–" if untrusted is None else f"{100 * untrusted:.0f} %",
        "–" if own is None else f"{own:.2f} ({own / times.median['vae']:.1f}×)",
        f"{found['train_seconds']:.0f}",
        settings(found["label"]),
    ]


def _bound(value: dict[str, Any]) -> str:
    numbers = (value["mean"], value["stderr"], value["stderr_over_seeds"])
    mean, error, seeds = ("–" if v is None else f"{v:.2f}".replace("-", "−") for v in numbers)
    return f"{mean} ± {error} ({seeds})"


def _gain(found: Paired | None) -> str:
    """In bold where it is significant, by p and by the seeds; a dash where there is none."""
    if found is None:
        return "–"
    text = nats(found._asdict())
    return f"**{text}**" if found.is_significant(found.p_value) else text


def nats(found: dict[str, Any] | None) -> str:
    """A paired difference with its errors, over images (over seeds, where there are several); a dash for none."""
    if found is None:
        return "–"
    mean, se, seeds = (math.nan if found[name] is None else found[name] for name in ("mean", "se", "se_seeds"))
    over_seeds = "" if math.isnan(seeds) else f" ({seeds:.2f})"
    return f"{mean:+.2f} ± {se:.2f}{over_seeds}".replace("-", "−")


def share_of_gap(rows: Results, title: str) -> str:
    """What a row closes of the VAE's gap, in per cent with its error; a dash for the VAE itself."""
    if title == "vae":
        return "–"
    found = share(rows, title)
    return f"{100 * found.mean:.0f} ± {100 * found.se:.0f} %".replace("-", "−")


def _p(found: Paired | None) -> str:
    value = math.nan if found is None else found.p_value
    return "–" if math.isnan(value) else ("< 0.001" if value < 0.001 else f"{value:.3f}")


def settings(label: str) -> str:
    """What of a label is not its row's name: the settings, those chosen on validation images among them."""
    items = [item for item in label.split(":")[1:] if item]
    return ", ".join(item.removeprefix("train.").removeprefix("model.") for item in items)
