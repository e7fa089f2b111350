"""The columns of a comparison, formatted once for every kind of table, with their meaning in plain words."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpvae_jax.report.rows import BEST, CompareRow, Estimate, check_rows

_METHOD = "How the posterior q(z|x) of an example's latents z is found."
_PARAMETERS = "Trainable numbers, those of the decoder included."
_EPOCHS = "Passes over the training data."
_BEST_EPOCH = (
    "Best epoch / epochs trained. The best is the one with the highest validation ELBO; its parameters are the ones "
    "evaluated."
)
_BEFORE = " In brackets, those that the parameters it started from had been trained, which no time here counts."
_ELBO = "Evidence lower bound on log p(x), mean over {count} test examples. Higher is better."
_IWAE = (
    "A tighter lower bound on log p(x), from {count} weighted samples of q(z|x); it rises with their number and "
    "reaches log p(x) in the limit. Higher is better."
)
_ESS = (
    "Effective sample size: how many of the {count} weighted samples count, from 1 to {count}, mean over test "
    "examples. Higher is better; close to 1, the IWAE bound leans on single samples."
)
_UNTRUSTED = (
    " In brackets, the share of the examples whose weights have so heavy a tail (Pareto k̂ above 0.7) that the bound is "
    "far from its limit, and neither it nor this number can be relied on."
)
MARKED = 0.1  # share of untrusted examples above which a bound is marked with †
_DAGGER = (
    " † More than a tenth of the examples have a Pareto k̂ above 0.7: a lower bound that more samples would still "
    "raise, not an estimate of log p(x)."
)
_BOLD = " In bold: significantly above every other method."
_DIFFERENCE = (
    "The method's IWAE-{count} less that of {first}, example by example on the same test examples. Above zero is "
    "better; less than about two standard errors from zero may be chance."
)
SMALLEST_P = 1e-3  # shown; below it only that it is below
_SEEDS = (
    "Standard error of that difference over the seeds of training: seed by seed where both methods have equally many, "
    "else both methods' added."
)
_P_VALUE = (
    "Chance of a difference at least this clear, were there none: Wilcoxon signed-rank test over test examples, seeds "
    "averaged, corrected for the number of rows (Holm)."
)
_BITS = "−IWAE-{count} in bits, per dimension of x. Lower is better."
_LATENCY = (
    "Milliseconds to infer q(z|x) for a batch of {batch} examples, and how many times that of {first}. Lower is better."
)
_TRAINING = "Wall-clock seconds spent training."


class Column(NamedTuple):
    """One column as every format shows it, one entry per row."""

    title: str
    short: str  # title for the terminal, in at most two short lines
    meaning: str  # in plain words, with what is better
    texts: list[str]  # the value
    asides: list[str]  # what stands beside it: "± standard error", "(times the first method)", or nothing
    numbers: dict[str, list[Any]]  # the same unrounded, under the names it has in CSV
    bold: tuple[int, ...] = ()  # rows whose value is set in bold: the significant winner


def columns(rows: Sequence[CompareRow]) -> list[Column]:
    """The table's columns, formatted. Raises ValueError where the rows cannot be compared (see `check_rows`)."""
    check_rows(rows)
    names = [row.name for row in rows]
    largest = max(rows[0].iwae)
    result = [
        _plain("Method", "method", "method", _METHOD, names, names),
        _plain(
            "Parameters", "params", "num_params", _PARAMETERS,
            [f"{row.num_params:,}" for row in rows], [row.num_params for row in rows],
        ),
        _epochs(rows),
        *_bounds(rows),
        _effective(rows, largest),
    ]  # fmt: skip
    if len(rows) > 1:
        title, meaning = f"IWAE-{largest} over {names[0]}", _DIFFERENCE.format(count=largest, first=names[0])
        values = [row.difference for row in rows]
        result.append(_estimates(title, "gain on\nfirst", "difference", meaning, values, signed=True))
        result.extend(_confidence(rows))
    if any(row.bits_per_dim is not None for row in rows):
        title, meaning = "Bits per dimension", _BITS.format(count=largest)
        result.append(_estimates(title, "bits\n/dim", "bits_per_dim", meaning, [row.bits_per_dim for row in rows]))
    return [*result, *_times(rows)]


def _effective(rows: Sequence[CompareRow], largest: int) -> Column:
    """Effective sample size, and beside it the share of the examples whose bound cannot be relied on."""
    meaning = _ESS.format(count=f"{largest:,}")
    numbers: dict[str, list[Any]] = {"ess": [row.ess for row in rows]}
    asides = [""] * len(rows)
    if any(row.untrusted is not None for row in rows):
        meaning += _UNTRUSTED
        asides = ["" if row.untrusted is None else f"({_significant(100 * row.untrusted, 2)} %)" for row in rows]
        numbers["untrusted"] = [row.untrusted for row in rows]
    return Column(
        f"ESS of {largest}", f"ESS of\n{largest}", meaning, [_significant(row.ess) for row in rows], asides, numbers
    )


def _confidence(rows: Sequence[CompareRow]) -> list[Column]:
    """How sure the difference is: over training seeds, and by a test over examples."""
    result = []
    seeds = [row.difference_se_seeds for row in rows]
    if any(error is not None for error in seeds):
        texts = ["–" if error is None else f"± {_significant(error, 2)}" for error in seeds]
        numbers: dict[str, list[Any]] = {"difference_se_seeds": seeds}
        result.append(Column("± over seeds", "± over\nseeds", _SEEDS, texts, [""] * len(rows), numbers))
    p_values = [row.p_value for row in rows]
    if any(p is not None for p in p_values):
        texts = ["< 0.001" if p is not None and p < SMALLEST_P else _fixed(p, 3) for p in p_values]
        result.append(_plain("p", "p", "p_value", _P_VALUE, texts, p_values))
    return result


def _bounds(rows: Sequence[CompareRow]) -> list[Column]:
    """ELBO and IWAE, the first IWAE with what it is, the others with how they differ from it."""
    smallest, *larger = sorted(rows[0].iwae)
    meanings = {smallest: _IWAE.format(count=f"{smallest:,}")}
    meanings |= {count: f"The same from {count:,} samples, tighter still. Higher is better." for count in larger}
    if any(_untrusted(row) for row in rows):
        meanings = {count: text + _DAGGER for count, text in meanings.items()}
    elbo = _ELBO.format(count=f"{rows[0].num_examples:,}")
    bounds = [
        _estimates(f"IWAE-{count}", f"IWAE\n{count}", f"iwae_{count}", text, [row.iwae[count] for row in rows])
        for count, text in meanings.items()
    ]
    daggers = [" †" if _untrusted(row) else "" for row in rows]
    bounds = [c._replace(asides=[a + d for a, d in zip(c.asides, daggers, strict=True)]) for c in bounds]
    return [
        _estimates("ELBO", "ELBO", "elbo", elbo, [row.elbo for row in rows]),
        *bounds[:-1],
        _with_verdict(bounds[-1], rows),
    ]


def _untrusted(row: CompareRow) -> bool:
    return row.untrusted is not None and row.untrusted > MARKED


def _with_verdict(column: Column, rows: Sequence[CompareRow]) -> Column:
    """The bound that decides, with the significant winner in bold; in CSV every row's verdict."""
    if all(row.verdict is None for row in rows):
        return column
    bold = tuple(i for i, row in enumerate(rows) if row.verdict == BEST)
    meaning = column.meaning + (_BOLD if bold else "")
    return column._replace(
        meaning=meaning, bold=bold, numbers=column.numbers | {"verdict": [row.verdict for row in rows]}
    )


def _epochs(rows: Sequence[CompareRow]) -> Column:
    best = any(row.best_epoch is not None for row in rows)
    texts = [f"{row.epochs}" if row.best_epoch is None else f"{row.best_epoch}/{row.epochs}" for row in rows]
    numbers: dict[str, list[Any]] = {
        "epochs": [row.epochs for row in rows],
        "best_epoch": [row.best_epoch for row in rows],
    }
    meaning, asides = _BEST_EPOCH if best else _EPOCHS, [""] * len(rows)
    if any(row.epochs_before for row in rows):
        meaning += _BEFORE
        asides = [f"(+{row.epochs_before})" if row.epochs_before else "" for row in rows]
        numbers["epochs_before"] = [row.epochs_before for row in rows]
    return Column("Epochs", "epochs", meaning, texts, asides, numbers)


def _times(rows: Sequence[CompareRow]) -> list[Column]:
    """Inference time, absolute and relative to the first method's, and training time."""
    batch, times = rows[0].latency_batch, [row.latency_ms for row in rows]
    relative = [None if time is None or not times[0] else time / times[0] for time in times]
    beside = ["" if value is None or len(rows) == 1 else f"({_significant(value, 2)}×)" for value in relative]
    meaning = _LATENCY.format(batch=batch, first=rows[0].name)
    numbers: dict[str, list[Any]] = {"latency_ms": times, "latency_relative": relative}
    texts, seconds = [_significant(time) for time in times], [row.train_seconds for row in rows]
    return [
        Column(f"Time per {batch} (ms)", f"ms per\n{batch}", meaning, texts, beside, numbers),
        _plain("Training (s)", "train\n(s)", "train_seconds", _TRAINING, list(map(_significant, seconds)), seconds),
    ]


def _plain(title: str, short: str, key: str, meaning: str, texts: list[str], values: list[Any]) -> Column:
    return Column(title, short, meaning, texts, [""] * len(texts), {key: values})


def _estimates(
    title: str, short: str, key: str, meaning: str, values: Sequence[Estimate | None], *, signed: bool = False
) -> Column:
    pairs = [(None, None) if value is None else tuple(value) for value in values]
    decimals = _decimals([se for _, se in pairs])
    texts = [_fixed(mean, decimals, signed) for mean, _ in pairs]
    asides = ["" if se is None else f"± {_fixed(se, decimals)}" for _, se in pairs]
    numbers = {key: [mean for mean, _ in pairs], f"{key}_se": [se for _, se in pairs]}
    return Column(title, short, meaning, texts, asides, numbers)


def _decimals(errors: Sequence[float | None]) -> int:
    """Decimals, the same for a whole column, at which its smallest standard error has two digits; 1 to 3."""
    known = [error for error in errors if error is not None and math.isfinite(error) and error > 0]
    return min(3, max(1, 1 - math.floor(math.log10(min(known))))) if known else 2


def _fixed(value: float | None, decimals: int, signed: bool = False) -> str:
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("−∞" if value < 0 else "∞")
    return f"{value:{'+' if signed else ''},.{decimals}f}".replace("-", "−")


def _significant(value: float | None, digits: int = 3) -> str:
    """At least `digits` digits, and never an exponent: 0.0123, 1.23, 12.3, 123, 1,234."""
    if value is None or not math.isfinite(value) or value == 0:
        return _fixed(value, 0)
    return _fixed(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))
