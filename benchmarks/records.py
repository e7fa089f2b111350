"""Results as JSON lines: each stands by itself, with the machine, the versions and the commit it was measured on."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpvae_jax.environment import environment, version
from gpvae_jax.files import write_text

PEERS = ("torch", "pythae", "numpyro")
RATES = ("images/s", "GFLOP/s", "GB/s")  # units of which more is better; of all others less is


class Line(NamedTuple):
    """One measured quantity; two lines are of the same one where benchmark, row, settings and unit agree."""

    benchmark: str
    row: str
    settings: dict[str, Any]
    unit: str
    median: float  # NaN where it could not be measured, and details["unsupported"] says why
    low: float  # 10th percentile
    high: float  # 90th percentile
    repeats: int  # readings behind them
    details: dict[str, Any]  # operations, shares of the machine's rates, stages of compilation …

    @property
    def key(self) -> tuple[str, ...]:
        """What is measured, whatever the result."""
        return (self.benchmark, self.row, json.dumps(self.settings, sort_keys=True), self.unit)

    @property
    def what(self) -> str:
        """The key in words."""
        return ", ".join([self.benchmark, self.row, *(f"{k} {v}" for k, v in self.settings.items())])


class Results(NamedTuple):
    """Lines, and what they were measured on: one entry per machine, commit and set of versions among them."""

    lines: list[Line]
    origins: list[dict[str, Any]]


def origin() -> dict[str, Any]:
    """Machine, versions and commit of what is measured now."""
    about = environment()
    versions = {"python": about["python"]} | about["packages"] | {name: version(name) for name in PEERS}
    machine = {name: about[name] for name in ("processor", "device", "backend", "platform", "matmul_precision")}
    machine["cores"] = about["cpus"]
    return {
        "machine": machine,
        "versions": {k: v for k, v in versions.items() if v is not None},
        "commit": about["commit"],
    }


def write(path: Path, lines: Iterable[Line]) -> None:
    """Write a result file, whole or not at all."""
    here = origin()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(_plain(line._asdict()) | here) + "\n" for line in lines))


def read(path: Path) -> Results:
    """Read a result file, or every *.jsonl of a folder. Raises ValueError or FileNotFoundError, one sentence."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f"There are no benchmark results at {path}; make some with `python -m benchmarks`.")
    lines, origins = [], []
    for file in files:
        for number, text in enumerate(file.read_text().splitlines(), 1):
            values = _parsed(text, f"{file}, line {number},")
            lines.append(Line(**{name: values[name] for name in Line._fields}))
            here = {name: values.get(name) for name in ("machine", "versions", "commit")}
            if here not in origins:
                origins.append(here)
    if not lines:
        raise ValueError(f"{path} holds no result lines; measure again with `python -m benchmarks`.")
    return Results(lines, origins)


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        raise ValueError(f"{where} is not JSON; expected a result file of `python -m benchmarks`.") from None
    missing = [name for name in Line._fields if not isinstance(values, dict) or name not in values]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; expected a result file of `python -m benchmarks`.")
    return values | {name: math.nan for name in ("median", "low", "high") if values[name] is None}


def _plain(value: Any) -> Any:
    """Six digits are enough, and what JSON has no number for becomes null."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
