"""Logits of the mixing proportions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.mixtures.mixing import logit, logits

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 3)), jnp.float32)
KEY = jax.random.key(0)


@pytest.mark.parametrize("kind", ["amortized", "constant"])
def test_all_start_at_the_value_whatever_the_input(kind):
    net = logits(kind, (2, 3))
    np.testing.assert_allclose(
        net.apply(net.init(KEY, 4 * [logit(0.1)]), X), np.full((5, 4), np.log(0.1 / 0.9)), rtol=1e-6
    )


@pytest.mark.parametrize(("kind", "varies"), [("amortized", True), ("constant", False)])
def test_only_the_amortized_depend_on_the_input(kind, varies):
    net = logits(kind, (2, 3))
    params = jax.tree.map(lambda a: a + 0.1, net.init(KEY, [0.0, 0.0]))
    out = net.apply(params, X)
    assert (np.ptp(out, axis=0) > 1e-3).all() == varies


@pytest.mark.parametrize("kind", ["amortized", "constant"])
def test_no_logits_have_no_arrays(kind):
    net = logits(kind, (2, 3))
    nothing = net.init(KEY, [])
    assert nothing == {}
    assert net.apply(nothing, X).shape == (5, 0)
    np.testing.assert_allclose(net.apply(net.init(KEY, [0.3, -0.7]), X), np.tile([[0.3, -0.7]], (5, 1)), rtol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="did you mean 'constant'"):
        logits("constnt", (2,))
    for p in (0.0, 1.0, -0.2):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            logit(p)
    assert abs(1 / (1 + np.exp(-logit(0.3))) - 0.3) < 1e-12
