"""The importance-weighted autoencoder (Burda et al. 2016): any inference, trained on the K-sample bound."""

from gpvae_jax.methods.vae import vae
from gpvae_jax.objectives import iwae_trained
from gpvae_jax.types import InferenceMethod, LatentModel, Network


def iwae(
    model: LatentModel,
    encoder: Network,
    *,
    base: InferenceMethod | None = None,
    num_samples: int = 5,
    doubly_reparameterized: bool = True,
) -> InferenceMethod:
    """`objectives.iwae_trained` of a method, `vae` by default: its posterior and its φ, the K-sample bound as loss.

    num_samples: K; doubly_reparameterized: the gradient of Tucker et al. (2019). Raises ValueError where K is below 1.
    """
    base = vae(model, encoder) if base is None else base
    return iwae_trained(base, model, num_samples=num_samples, doubly_reparameterized=doubly_reparameterized)
