"""What is drawn of a run's posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.evaluate.panels import SAMPLES, posterior_panels_of
from gpvae_jax.methods import vae
from gpvae_jax.networks import mlp
from tests.exact import latent_model, random_model


@pytest.mark.parametrize("latent_dim", [2, 4])
def test_panels_hold_the_true_posterior_the_method_and_its_optimum(latent_dim):
    exact = random_model(data_dim=6, latent_dim=latent_dim, variance=0.2)
    model, x = latent_model(exact), jnp.asarray(exact.data(seed=0, count=3), jnp.float32)
    method = vae(model, mlp((6,), (8,)))
    params = method.init(jax.random.key(0), x)._replace(model=exact.theta())
    mean, covariance = exact.posterior(np.asarray(x, np.float64))
    best_std = 1 / np.sqrt(np.diagonal(np.linalg.inv(covariance)))
    panels = posterior_panels_of(method, model, params, x)
    assert len(panels) == 3
    q, _ = jax.jit(method.posterior)(params, jax.random.key(0), x)
    for b, panel in enumerate(panels):
        pair = list(panel.coordinates)
        own, best = panel.gaussians
        np.testing.assert_allclose(own.mean, q.mean[b, np.array(pair)], rtol=1e-5)
        np.testing.assert_allclose(best.mean, mean[b, pair], atol=0.1)
        np.testing.assert_allclose(best.std, best_std[pair], rtol=0.1)
        top = np.unravel_index(np.argmax(panel.log_density), panel.log_density.shape)
        peak = [panel.first[top[0]], panel.second[top[1]]]
        np.testing.assert_allclose(peak, best.mean, atol=0.15)  # the plane goes through the best Gaussian's mean
        assert panel.samples.shape == (SAMPLES, 2)
        assert ("nats" in panel.title) == (latent_dim == 2)
        assert panel.images == []  # the data are no pictures
    with pytest.raises(ValueError, match="at least 2 latents, got 1"):
        posterior_panels_of(method, model._replace(latent_dim=1), params, x)
