"""The few types everything else leans on.

Axes, everywhere in the library: `x[B, *D]` data, `z[S, B, Z]` latents; S samples, B batch, Z latent
dimensions, M mixture components, F features, N training items. Log-probabilities are in nats. Equations:
docs/mathematics.md.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

Metrics = dict[str, Array]
Info = dict[str, Any]


class Params(NamedTuple):
    """All trainable parameters: the generative model's and the inference side's, as plain pytrees."""

    model: PyTree  # θ
    inference: PyTree  # φ

    def of(self, part: str) -> "Params":
        """With φ of one part alone, such as "base", the method that another is built over. Raises ValueError where φ
        has no such part.
        """
        if not isinstance(self.inference, dict) or part not in self.inference:
            has = sorted(self.inference) if isinstance(self.inference, dict) else type(self.inference).__name__
            raise ValueError(
                f"The parameters φ of this method have a part '{part}', but those given have only {has}; put trained "
                'ones in as in Params(p.model, {"base": p.inference}), or take init and warm_start.'
            )
        return Params(self.model, self.inference[part])


class HiddenLayers(NamedTuple):
    """Affine layers of vectors with an activation after each: h = act(act(x W₁ + b₁) W₂ + b₂) …."""

    weights: Callable[[PyTree], list[tuple[Array, Array]]]  # params -> W[H, G], b[G] of each
    activation: Callable[[Array], Array]


class LastLayer(NamedTuple):
    """How a network ends: out = features(params, x) W + b, flattened."""

    features: Callable[[PyTree, Array], Array]  # (params, x[B, *in_shape]) -> h[B, H]
    weights: Callable[[PyTree], tuple[Array, Array]]  # params -> W[H, O], b[O]
    hidden: HiddenLayers | None = None  # where these make the features


class Network(NamedTuple):
    """A neural network as a pair of pure functions with its shapes.

    `init(key)` returns the parameters (nested dicts of arrays); `apply(params, x[B, *in_shape])` returns
    `[B, *out_shape]`. Make one from a Flax module with `networks.from_nnx` or `networks.from_linen`, or by hand.
    """

    init: Callable[[PRNGKeyArray], PyTree]
    apply: Callable[[PyTree, Array], Array]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    last: LastLayer | None = None  # where it ends in an affine layer and says so


class ReducedOutputs(NamedTuple):
    """log p_θ(x|z) from a few directions of the decoder's output, which its gradient in z needs at a fraction of the
    price (eq. 3.13, derived). `reduced` is what follows from θ, made once for trained parameters.
    """

    prepare: Callable[[PyTree], PyTree]  # θ -> reduced, on the host: its last axes are the directions, by weight
    observe: Callable[[PyTree, Array], Array]  # (reduced, x[B, *D]) -> c[B, R], once per input
    log_likelihood: Callable[[PyTree, PyTree, Array, Array], Array]  # (θ, reduced, c[B, R], z[S, B, Z]) -> [S, B]


class LatentModel(NamedTuple):
    """A generative model p_θ(x, z) = p_θ(z) p_θ(x|z) over data of shape `data_shape` and `latent_dim` latents.

    Where `log_prior` is not `posteriors.standard_normal_prior`, what has a closed form for N(0, I) alone raises.
    """

    init: Callable[[PRNGKeyArray, Array], PyTree]  # (key, x[N, *D]) -> θ
    log_prior: Callable[[PyTree, Array], Array]  # (θ, z[..., Z]) -> [...]
    log_likelihood: Callable[[PyTree, Array, Array], Array]  # (θ, x[B, *D], z[S, B, Z]) -> [S, B]
    sample: Callable[[PyTree, PRNGKeyArray, int], tuple[Array, Array]]  # (θ, key, n) -> z[n, Z], x[n, *D]
    mean: Callable[[PyTree, Array], Array]  # E[x|z]: (θ, z[B, Z]) -> [B, *D]
    data_shape: tuple[int, ...]
    latent_dim: int
    reduced: ReducedOutputs | None = None  # where the likelihood and the decoder allow it
    check: Callable[[np.ndarray], None] = lambda x: None  # on the host: ValueError where x[N, *D] is off the support


@runtime_checkable
class Posterior(Protocol):
    """A batch of distributions q(z|x_b), itself a pytree of arrays.

    Implementations may also offer `log_prob(z)`, `mean`, `variance` and `kl_to_standard_normal()`.
    """

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        """Draw z[S, B, Z] by reparameterisation and return it with log q(z|x)[S, B]."""
        ...


class InferenceMethod(NamedTuple):
    """How q(z|x) is computed and trained: three pure functions, none of them jitted.

    `init(key, x[N, *D])` returns `Params`; `posterior(params, key, x[B, *D])` returns a `Posterior` and a dict
    of what the method has to tell (variances, weights, traces); `loss(params, key, x[B, *D], beta=β)` returns
    the scalar to minimise (nats per example) and a dict of scalar metrics, `elbo` always among them.
    """

    init: Callable[[PRNGKeyArray, Array], Params]
    posterior: Callable[[Params, PRNGKeyArray, Array], tuple[Any, Info]]  # (a Posterior of the method's own type, info)
    loss: Callable[..., tuple[Array, Metrics]]
    # what stands for the posterior in training's validation, where the posterior itself is too dear for every epoch
    amortized: Callable[[Params, PRNGKeyArray, Array], tuple[Any, Info]] | None = None
