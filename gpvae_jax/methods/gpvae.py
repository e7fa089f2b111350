"""GPVAE: a Gaussian process on the error of the amortized encoder (Kim, CVPR 2022).

Not to be confused with Gaussian-process *priors over z*: here μ(x) = m(x) + f(x) and σ(x) = s(x) + h(x), errors added
to the encoder's mean m and standard deviation s (eq. 6.1, paper), with f = Wψ(x), h = Uψ(x), the deep linear kernel
(eq. 6.2, paper). A Gaussian q(W, U) is learned by variational inference, the ELBO of N(μ, σ²) being the likelihood of
(f, h) (eq. 6.3, paper). Equations: docs/mathematics.md.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.checks import check_above, check_at_least
from gpvae_jax.gp.features import encode_with_features
from gpvae_jax.gp.posterior import GaussianScaleMixture
from gpvae_jax.gp.weights import ERRORS, WeightPosterior, init_white_noise, weight_posterior_by_name
from gpvae_jax.gp.weights import white_noise as noise_variance
from gpvae_jax.keys import beyond_base
from gpvae_jax.methods.vae import vae
from gpvae_jax.naming import unknown
from gpvae_jax.posteriors import require_standard_normal_prior
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Metrics, Network, Params, Posterior

OBJECTIVES = ("expected", "marginal")


def gpvae(
    model: LatentModel,
    encoder: Network,
    *,
    base: InferenceMethod | None = None,
    feature_network: Network | None = None,
    features: int = 0,
    own_features: bool = False,
    unit_features: bool = False,
    weight_posterior: str = "diagonal",
    rank: int = 8,
    prior_scale: float = 1.0,
    learn_prior_scale: bool = False,
    start_variance: float = 1e-3,
    objective: str = "expected",
    num_samples: int = 1,
    quadrature: int = 32,
    num_data: int = 0,
    white_noise: bool = False,
) -> InferenceMethod:
    """Maximise, per example, E_{q(W,U)}[ELBO(N(m + Wψ, (s + Uψ)²); x)] − KL(q(W, U) ‖ p(W, U)) / N
    (eq. 6.5, paper).

    The posterior is a `GaussianScaleMixture`, (W, U) integrated out in one forward pass; φ = {"base": the base's φ,
    "mean": q(W), "std": q(U), …}. At zero weight means and variances it is the base. The defaults are the paper's
    form where the posts give one (errors on mean and standard deviation, linear kernel, expected ELBO, Gaussian
    q(W, U)); its shape, τ, and the shared features are derived.

    base: the method whose errors are modelled, any with a `DiagonalGaussian` posterior (default `vae(model, encoder)`).
    ψ: without a base the encoder's last hidden layer, of which there is then one evaluation. With own_features, a
       base or a feature_network, ψ has its own network x[B, *D] -> [B, F]: feature_network, else one built like
       `encoder`. features > 0 puts a linear map to that width on top. ψ is scaled by 1/√F; with unit_features by its
       norm, so that k(x, x) = τ² everywhere (derived). Otherwise an input that excites few features counts as certain,
       and a feature network of its own can lower the variance by falling silent, which it does.
    weight_posterior: "diagonal", "low_rank" (of `rank`), "full" or "shared"; costs in `gp.weights`.
    prior_scale: τ of the weights' prior N(0, τ² I); learn_prior_scale starts there, one τ for f and one for h.
    start_variance: of every weight, above 0. Their means start at 0.
    objective: "expected" (paper) or "marginal", the ELBO of the marginal posterior, never below it on average.
    num_samples: draws of z per example and step. quadrature: nodes over σ in the density.
    num_data: number N of the examples trained on. After a warm start, with the base frozen (`objectives.frozen`), these
       may be any: held-out ones, or `model.sample`.
    white_noise: adds v(x) of the kernel τ² ψᵀψ' + v(x) δ(x, x') to both errors' variances. "expected" drives it
       to zero on the examples it sees; `gp.laplace` fits it by marginal likelihood.
    Raises ValueError, one sentence, on a setting out of range and on a model whose prior is not N(0, I).
    """
    require_standard_normal_prior(model, "The exact KL")
    if objective not in OBJECTIVES:
        raise ValueError(unknown("objective", objective, OBJECTIVES))
    if num_data < 1:
        raise ValueError(
            f"gpvae needs num_data, the number of examples that its weights' KL is spread over, got {num_data}."
        )
    check_above(0, start_variance=start_variance, prior_scale=prior_scale)
    check_at_least(1, num_samples=num_samples)
    check_at_least(2, quadrature=quadrature)
    check_at_least(0, features=features)  # 0: the network's own
    family = weight_posterior_by_name(weight_posterior, rank)
    encoding = encode_with_features(model, encoder, base, feature_network, features, own_features, unit_features)

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> Params:
        start = (vae(model, encoder) if base is None else base).init(key, x)
        key_mean, key_std, key_features = jax.random.split(beyond_base(key, 0), 3)
        sizes = (encoding.width, model.latent_dim, start_variance)
        phi: PyTree = {"base": start.inference}
        phi |= {"mean": family.init(key_mean, *sizes), "std": family.init(key_std, *sizes)}
        if own := encoding.init(key_features):
            phi["features"] = own
        if learn_prior_scale:
            log_scale = jnp.asarray(math.log(prior_scale), jnp.result_type(float))
            phi["log_prior_scale"] = {"mean": log_scale, "std": log_scale}
        if white_noise:
            noise = jnp.full((model.latent_dim,), start_variance, jnp.result_type(float))
            phi["noise"] = {part: init_white_noise(encoding.width, noise) for part in ERRORS}
        return Params(start.model, phi)

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[GaussianScaleMixture, Info]:
        phi = params.inference
        q, base_info, psi = encoding.apply(params, key, x)
        info: Info = {"base": base_info, "base_mean": q.mean, "base_std": q.std, "features": psi}
        for part in ERRORS:
            noise = noise_variance(phi["noise"][part], psi) if white_noise else jnp.zeros_like(q.mean)
            info[f"{part}_error"] = family.mean(phi[part], psi)
            info[f"{part}_variance"] = family.variance(phi[part], psi) + noise
        mean, std = q.mean + info["mean_error"], q.std + info["std_error"]
        return GaussianScaleMixture(mean, info["mean_variance"], std, info["std_variance"], quadrature), info

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        key_posterior, key_z = jax.random.split(key)
        q, info = posterior(params, key_posterior, x)
        z, variance = q.draw(key_z, num_samples)
        log_likelihood = jnp.mean(model.log_likelihood(params.model, x, z))
        kl = jnp.mean(q.expected_kl() if objective == "expected" else q.marginal_kl(z, variance))
        weights = weight_kl(params.inference, family, prior_scale) / num_data
        metrics = {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl, "weight_kl": weights}
        metrics |= {name: jnp.mean(info[name]) for name in ("mean_variance", "std_variance")}
        return beta * kl - log_likelihood + weights, metrics

    return InferenceMethod(init, posterior, loss)


def weight_kl(phi: PyTree, family: WeightPosterior, prior_scale: float) -> Float[Array, ""]:
    """KL(q(W, U) ‖ p(W, U)) in nats, of a GPVAE's φ; a learned prior scale in φ goes before the one given."""
    log_scale = phi.get("log_prior_scale")
    scales = {part: jnp.exp(log_scale[part]) if log_scale else prior_scale for part in ERRORS}
    return family.kl(phi["mean"], scales["mean"]) + family.kl(phi["std"], scales["std"])


def with_weight_kl(
    method: InferenceMethod, num_data: int, *, weight_posterior: str = "diagonal", rank: int = 8, prior_scale: float = 1
) -> InferenceMethod:
    """A method over GPVAEs (`as_gaussian`), or a mixture of them, whose loss has the KL of all their weights / N too.

    Needs φ, φ["base"] or φ["components"] to be a GPVAE's φ; the settings are that GPVAE's (derived: the bound of the
    refined or mixed posterior given (W, U) at their moments, less the same description length as GPVAE's own).
    """
    family = weight_posterior_by_name(weight_posterior, rank)

    def kl(phi: PyTree) -> Float[Array, ""]:
        return weight_kl(phi, family, prior_scale) / num_data

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        value, metrics = method.loss(params, key, x, beta=beta)
        phi = params.inference
        parts = phi if set(ERRORS) <= set(phi) else phi.get("components", phi.get("base"))
        weights = {name: parts[name] for name in (*ERRORS, "log_prior_scale") if name in parts}
        total = jnp.sum(jax.vmap(kl)(weights)) if "components" in phi else kl(weights)
        return value + total, metrics | {"weight_kl": total}

    return method._replace(loss=loss)


def as_gaussian(method: InferenceMethod) -> InferenceMethod:
    """A `gpvae` whose posterior is the Gaussian of its marginal's mean and variance: a base for methods that refine or
    mix Gaussians. Its init and loss are the GPVAE's own; a method built on it has its weights' KL by `with_weight_kl`.
    A posterior that is a Gaussian already, as of a gpvae that was refined, stays as it is.
    """

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[Posterior, Info]:
        q, info = method.posterior(params, key, x)
        return q.moment_matched() if isinstance(q, GaussianScaleMixture) else q, info

    return method._replace(posterior=posterior)
