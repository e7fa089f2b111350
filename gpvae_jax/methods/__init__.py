"""The inference methods, one file each, and the dict that lists them."""

from collections.abc import Callable

from gpvae_jax.methods.gpvae import as_gaussian, gpvae, with_weight_kl
from gpvae_jax.methods.householder import householder
from gpvae_jax.methods.iaf import iaf
from gpvae_jax.methods.iterative import iterative
from gpvae_jax.methods.iwae import iwae
from gpvae_jax.methods.mixture import mixture
from gpvae_jax.methods.newton import newton
from gpvae_jax.methods.recmix import growth, recmix
from gpvae_jax.methods.savi import savi
from gpvae_jax.methods.svi import svi
from gpvae_jax.methods.vae import vae
from gpvae_jax.methods.vlae import vlae
from gpvae_jax.types import InferenceMethod

# name -> factory (model, encoder, **settings) -> InferenceMethod; a new method is a new file and a line here
METHODS: dict[str, Callable[..., InferenceMethod]] = {
    "vae": vae,
    "gpvae": gpvae,
    "recmix": recmix,
    "mixture": mixture,
    "newton": newton,
    "iterative": iterative,
    "savi": savi,
    "iaf": iaf,
    "householder": householder,
    "vlae": vlae,
    "iwae": iwae,
    "svi": svi,
}

__all__ = [
    "METHODS",
    "as_gaussian",
    "gpvae",
    "growth",
    "householder",
    "iaf",
    "iterative",
    "iwae",
    "mixture",
    "newton",
    "recmix",
    "savi",
    "svi",
    "vae",
    "vlae",
    "with_weight_kl",
]
