"""What a setting costs: components M, steps K, samples S, temperatures T, latents Z, each against its expected line.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --axes M K

The expected time of a point is that of the first point times the ratio of their operations: the mathematics' own
growth. Fully connected networks; M, K and Z are inference of 128 images, S the importance-weighted bound of 16, T
annealed importance sampling of 4.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax

from benchmarks import evaluation, harness
from benchmarks.cases import Case, case, images
from benchmarks.harness import Competitor, Finish
from benchmarks.records import Line
from gpvae_jax.evaluate import inference_call

BATCH, IWAE_BATCH, AIS_BATCH = 128, 16, 4


def components(row: str) -> dict[int, Competitor]:
    """M."""
    return {m: _inference(case(f"{row}:num_components={m}")) for m in (1, 2, 3, 5, 8)}


def steps(row: str) -> dict[int, Competitor]:
    """K."""
    return {k: _inference(case(f"{row}:steps={k}")) for k in (0, 1, 2, 4, 8)}


def latents(row: str) -> dict[int, Competitor]:
    """Z."""
    return {z: _inference(case(row, latents=z)) for z in (5, 10, 20, 40)}


def samples(row: str) -> dict[int, Competitor]:
    """S of the importance-weighted bound."""
    made = {}
    for count in (64, 256, 1024, 4096):
        staged = evaluation.iwae_bound(case(row), count, IWAE_BATCH)
        made[count] = Competitor(staged.call, staged.cost, staged.details)
    return made


def temperatures(row: str) -> dict[int, Competitor]:
    """T."""
    one = case(row)
    per_pass = evaluation.decoder_products(one.params.model).cost.products / evaluation.ROWS
    made = {}
    for count in (25, 50, 100):
        settings = evaluation.Settings(slow_images=AIS_BATCH, temperatures=count)
        call, _, passes = evaluation.annealed(one, settings)
        made[count] = Competitor(call, evaluation.products_only(per_pass * passes))
    return made


def _inference(one: Case) -> Competitor:
    arguments = (one.params, jax.random.key(2), images(BATCH))
    return harness.program(inference_call(one.method), *arguments)


AXES: dict[str, tuple[Callable[[str], dict[int, Competitor]], tuple[str, ...]]] = {
    "M": (components, ("recmix", "mixture")),
    "K": (steps, ("savi", "newton")),
    "S": (samples, ("vae",)),
    "T": (temperatures, ("vae",)),
    "Z": (latents, ("vae", "gpvae", "newton", "vlae")),
}  # axis -> how its competitors are made, and of which methods


@dataclass(frozen=True)
class Settings(harness.Settings):
    """What is varied."""

    axes: tuple[str, ...] = tuple(AXES)


def run(command: Settings) -> Iterator[Line]:
    """One race for each axis and method."""
    harness.known("axis", command.axes, AXES)
    for axis in command.axes:
        make, methods = AXES[axis]
        for method in methods:
            competitors = make(method)
            found = harness.race({str(at): one for at, one in competitors.items()}, command, least=5)
            found = {f"{axis} = {at}": _expected(found, str(at)) for at in competitors}
            yield from harness.latency_lines("scaling", {"axis": axis, "method": method}, found)


def _expected(found: dict[str, Finish], at: str) -> Finish:
    """The finish with what was expected of it: the first one's time by the ratio of operations."""
    first, this = next(iter(found.values())), found[at]
    ratio = this.details["operations"] / first.details["operations"]
    return this._replace(details=this.details | {"at": int(at), "expected": first.time.median * ratio})


if __name__ == "__main__":
    harness.main("scaling", Settings, run, __doc__)
