"""A trained run's inference as one file that needs JAX and flatbuffers alone: `jax.export`, the parameters inside.

gpvae export runs/mnist-vae --out vae.jaxexport

import jax, numpy
infer = jax.export.deserialize(bytearray(open("vae.jaxexport", "rb").read()))
infer.call(numpy.uint32(0), x)      # {"z": [S, B, Z], "log_q": [S, B], and "mean", "variance" [B, Z] where they exist}
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array

from gpvae_jax.types import InferenceMethod, LatentModel, Params

PLATFORMS = ("cpu", "cuda", "tpu")


def export_inference(
    method: InferenceMethod,
    model: LatentModel,
    params: Params,
    *,
    num_samples: int = 1,
    platforms: tuple[str, ...] = PLATFORMS,
) -> bytes:
    """(seed, x[B, *D]) -> q(z|x) as a serialised program for any batch size B and each of the platforms.

    x is what the likelihood sees, float32, as `runs.Trained.prepare` makes it of grey levels. The program returns
    num_samples draws z[S, B, Z] with log q(z|x)[S, B], and the posterior's mean and variance [B, Z] where it offers
    them. Raises ValueError where num_samples is below 1.
    """
    if num_samples < 1:
        raise ValueError(f"An exported program draws at least 1 sample, got num_samples={num_samples}.")

    def infer(seed: Array, x: Array) -> dict[str, Array]:
        x = x.astype(jnp.result_type(float))  # what the parameters were trained in
        key_posterior, key_z = jax.random.split(jax.random.key(seed))
        q, _ = method.posterior(params, key_posterior, x)
        z, log_q = q.sample_and_log_prob(key_z, num_samples)
        moments = {name: getattr(q, name) for name in ("mean", "variance") if hasattr(q, name)}
        return {"z": z, "log_q": log_q} | moments

    (batch,) = export.symbolic_shape("b")
    shapes = jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((batch, *model.data_shape), jnp.float32)
    return bytes(export.export(jax.jit(infer), platforms=platforms)(*shapes).serialize())


def load_inference(path: str | Path) -> Callable[[Any, Any], dict[str, Array]]:
    """The function (seed, x[B, *D]) in a file that `gpvae export` wrote, jitted; the seed is any integer.

    Raises FileNotFoundError or ValueError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no exported program {path}; write one with gpvae export RUN --out {path}.")
    try:
        program = export.deserialize(bytearray(path.read_bytes()))
    except Exception as error:  # what a wrong file makes the reader raise depends on its bytes
        raise ValueError(f"{path} is not a program that gpvae export wrote, or it was cut short.") from error

    @jax.jit
    def infer(seed: Any, x: Any) -> dict[str, Array]:
        return program.call(jnp.asarray(seed).astype(jnp.uint32), x)

    return infer
