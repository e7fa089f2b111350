"""What a step costs that knows the curvature, against steps that know the gradient alone, as the latents grow.

    python -m benchmarks.curvature
    python -m benchmarks.curvature --latents 20 --seconds 3

Inference of 128 images by fully connected networks, in units of the VAE's: K of SAVI's gradient steps on one draw
each, Newton's learned step, and Gauss–Newton steps, whose Jacobian is Z forward tangents of the decoder. The column "of
matmul" says how much of the time the operations would take at the rate of one large matrix product.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax

from benchmarks import harness
from benchmarks.cases import case, images
from benchmarks.records import Line
from gpvae_jax.evaluate import inference_call

BATCH = 128
EXACT = "newton:curvature=gauss_newton:step_size=1"
ROWS = (
    "vae",
    *(f"savi:steps={steps}:inner_samples=1" for steps in (1, 2, 8)),
    "newton",
    f"{EXACT}:covariance=base",  # one Jacobian
    EXACT,  # and another at the new mean, for the covariance
)


@dataclass(frozen=True)
class Settings(harness.Settings):
    """What is timed."""

    rows: tuple[str, ...] = ROWS
    """NAME:setting=value:…; ratios are to the first."""
    latents: tuple[int, ...] = (10, 20, 50, 128)


def run(command: Settings) -> Iterator[Line]:
    """One race for each number of latents."""
    for latents in command.latents:
        cases = {row: case(row, latents=latents) for row in command.rows}
        made = {
            row: harness.program(inference_call(one.method), one.params, jax.random.key(2), images(BATCH))
            for row, one in cases.items()
        }
        found = harness.race(made, command, least=5)
        yield from harness.latency_lines("curvature", {"latents": latents, "batch": BATCH}, found)


if __name__ == "__main__":
    harness.main("curvature", Settings, run, __doc__)
