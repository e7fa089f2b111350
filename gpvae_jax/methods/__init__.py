"""The inference methods, one file each, and the dict that lists them."""

from collections.abc import Callable

from gpvae_jax.methods.vae import vae
from gpvae_jax.types import InferenceMethod

# name -> factory (model, encoder, **settings) -> InferenceMethod; a new method is a new file and a line here
METHODS: dict[str, Callable[..., InferenceMethod]] = {
    "vae": vae,
}

__all__ = ["METHODS", "vae"]
