"""RecMix: a recursive mixture of amortized encoders (Kim & Pavlovic 2020). Equations: docs/mathematics.md."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.checks import check_at_least, check_limit
from gpvae_jax.keys import beyond_base
from gpvae_jax.methods.vae import vae
from gpvae_jax.mixtures import criteria
from gpvae_jax.mixtures.bounds import all_to_all, component_metrics, over_components
from gpvae_jax.mixtures.components import TRUNK, Components, components
from gpvae_jax.mixtures.mixing import Logits, logit, logits
from gpvae_jax.mixtures.posterior import GaussianMixture, stick_breaking
from gpvae_jax.naming import unknown
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Metrics, Network, Params
from gpvae_jax.warm_start import PERTURBATION, warm_start

REFINEMENTS = ("joint", "recursive", "newest")
INITIALIZATIONS = ("perturbed", "fresh")


def recmix(
    model: LatentModel,
    encoder: Network,
    *,
    num_components: int = 3,
    objective: str = "bkl",
    cap: float = 2.0,
    cap_on: str = "example",
    entropy_weight: float = 0.5,
    against: str = "others",
    refinement: str = "recursive",
    epsilon: str = "constant",
    initial_epsilon: float = 0.0,
    shared_trunk: bool = False,
    num_samples: int = 1,
    evaluate_components: str = "auto",
    base: InferenceMethod | None = None,
) -> InferenceMethod:
    """Q_m = (1 − ε_m(x)) Q_{m−1} + ε_m(x) q_m, m = 1 … M − 1, each q_m an encoder of its own (eq. 5.1, paper).

    The default holds each component against all others, from equal weights that become the same for every x; the
    paper's recursion is against="earlier" with epsilon="amortized" and an initial_epsilon that is small, as 0.1.
    docs/recmix_findings.md says why.

    num_components: M, components made by `init`; the other functions read M off the parameters (see `growth`).
    refinement: who is trained on what, all in one step with one set of draws.
      "recursive": component m on its own criterion, ε and θ on L(Q_{M−1}) (paper);
      "joint": everything on L(Q_{M−1}) (derived); with amortized ε it leaves components without weight;
      "newest": only the newest component, on its criterion, and its ε, on L(Q_{M−1}); the rest is held (paper:
      how a component is added).
    objective: component m's criterion, for "recursive" and "newest": "bkl", L(q_m) + min(KL(q_m‖Q_{m−1}), cap)
      (eq. 5.7, paper); "greedy", L(Q_m) (eq. 5.8, derived); "entropy", E_{q_m}[log p − log Q_{m−1}] +
      entropy_weight · H(q_m) (eq. 5.9, paper).
    cap: nats per example; cap_on: "example", the mean of num_samples draws, or "sample", each draw.
    against: what stands for Q_{m−1} in the criteria: "others", the mixture of all components but m (derived), or
      "earlier", Q_{m−1} itself (paper). For a newest component the two are one.
    epsilon: "constant", or "amortized", a small network of x (paper); all start at initial_epsilon, or where that is
      0 at ε_m = 1/(m + 1), which weighs all components alike (derived).
    shared_trunk: one trunk with M heads instead of M encoders; "newest" then trains a head alone. num_samples: draws of
    z per component, example and step. evaluate_components: see `components.evaluate`. base: the method that gives each
    component, any whose posterior is a `DiagonalGaussian` (default `vae`). φ = {"components": base's φ stacked,
    "epsilon": …}.
    """
    _check(num_components, num_samples, objective, cap, cap_on, against, refinement, entropy_weight)
    first_logit(initial_epsilon, 1)  # so that a wrong value is told here
    parts = components(base or vae(model, encoder), shared_trunk=shared_trunk, how=evaluate_components)
    sticks = logits(epsilon, model.data_shape)

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> Params:
        params = parts.init(key, x, num_components)
        starts = [first_logit(initial_epsilon, m) for m in range(1, num_components)]
        epsilons = sticks.init(beyond_base(key, 0), starts)
        return Params(params.model, {"components": params.inference, "epsilon": epsilons})

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[GaussianMixture, Info]:
        return _mixture(parts, sticks, params, key, x, newest_only=False)

    def criterion(draws: criteria.Draws) -> Float[Array, "M B"]:
        current = criteria.current_mixture(draws.posterior.num_components, against)
        if objective == "bkl":
            return criteria.bounded_kl(draws, current, cap=cap, cap_on=cap_on)
        if objective == "entropy":
            return criteria.entropy_regularized(draws, current, entropy_weight=entropy_weight)
        return criteria.greedy(draws, current)

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        key_posterior, key_z = jax.random.split(key)
        newest = refinement == "newest"
        fixed = params if refinement == "joint" else params._replace(model=jax.lax.stop_gradient(params.model))
        if newest and shared_trunk:  # the earlier components' as well
            held_trunk = jax.lax.stop_gradient(fixed.inference["components"][TRUNK])
            of_all = fixed.inference["components"] | {TRUNK: held_trunk}
            fixed = fixed._replace(inference=fixed.inference | {"components": of_all})
        q, info = _mixture(parts, sticks, fixed, key_posterior, x, newest_only=newest)
        z = q.strata(q.noise(key_z, num_samples))
        if refinement == "joint":
            bound, metrics = all_to_all(model, params.model, q, z, x, beta)
            return -bound, metrics | _metrics(q, info["epsilon"])
        # ε and θ on L(Q), with the components and their draws as constants …
        theta = fixed.model if newest else params.model
        held = jax.lax.stop_gradient(q)._replace(log_alpha=q.log_alpha)
        bound, metrics = all_to_all(model, theta, held, jax.lax.stop_gradient(z), x, beta)
        # … and each component on its own criterion, with all else constant: it adds a gradient and no value
        log_joint = over_components(model.log_likelihood, fixed.model, x, z)
        log_joint = log_joint + beta * model.log_prior(fixed.model, z)
        values = criterion(criteria.Draws(q, z, log_joint, beta))
        own = jnp.sum(jnp.mean(values[-1:] if newest else values, axis=1))
        return -bound - (own - jax.lax.stop_gradient(own)), metrics | _metrics(q, info["epsilon"])

    return InferenceMethod(init, posterior, loss)


class Growth(NamedTuple):
    """How a recursive mixture comes to be from a trained encoder, one component at a time."""

    start: Callable[[Params], Params]  # the base method's parameters -> a mixture of that one component
    grow: Callable[[Params, PRNGKeyArray], Params]  # M components -> M + 1


def growth(
    model: LatentModel,
    encoder: Network,
    *,
    initialization: str = "perturbed",
    perturbation: float = PERTURBATION,
    epsilon: str = "constant",
    initial_epsilon: float = 0.0,
    shared_trunk: bool = False,
    base: InferenceMethod | None = None,
) -> Growth:
    """`start` and `grow` for the parameters of `recmix` with the same settings.

    initialization: the new component starts at "perturbed", component 0 plus noise of `perturbation` times each
    parameter array's standard deviation, or "fresh", the base method's own initialisation (derived). Its ε starts
    at initial_epsilon (0: at 1/(m + 1), as for `recmix`), which scales every earlier weight by 1 − ε. Raises ValueError
    on an unknown initialisation, and in use as `recmix`.
    """
    if initialization not in INITIALIZATIONS:
        raise ValueError(unknown("initialization", initialization, INITIALIZATIONS))
    noise = perturbation if initialization == "perturbed" else None
    count = components(base or vae(model, encoder), shared_trunk=shared_trunk).count

    def of(params: Params, num_components: int, key: PRNGKeyArray) -> Params:
        wider = recmix(
            model,
            encoder,
            num_components=num_components,
            epsilon=epsilon,
            initial_epsilon=initial_epsilon,
            shared_trunk=shared_trunk,
            base=base,
        )
        key_fresh, key_noise = jax.random.split(key)
        fresh = wider.init(key_fresh, jnp.zeros((1, *model.data_shape), jnp.result_type(float)))  # θ is replaced
        return warm_start(fresh, params, key_noise, perturbation=noise)

    def start(params: Params) -> Params:
        return of(params, 1, jax.random.key(0))  # one component: nothing random is kept

    def grow(params: Params, key: PRNGKeyArray) -> Params:
        return of(params, count(params.inference["components"]) + 1, key)

    return Growth(start, grow)


def first_logit(initial_epsilon: float, m: int) -> float:
    """The logit at which ε_m starts: of initial_epsilon, or of 1/(m + 1) where that is 0."""
    return logit(initial_epsilon or 1 / (m + 1))


def _mixture(
    parts: Components, sticks: Logits, params: Params, key: PRNGKeyArray, x: Array, *, newest_only: bool
) -> tuple[GaussianMixture, Info]:
    phi = params.inference
    q = parts.posterior(params.model, phi["components"], key, x)
    stick = sticks.apply(phi["epsilon"], x)
    if newest_only:  # of the sticks, too, only the newest one's gradient is wanted
        stick = jnp.concatenate([jax.lax.stop_gradient(stick[:, :-1]), stick[:, -1:]], axis=1)
    log_alpha = stick_breaking(stick)
    info = {"alpha": jnp.exp(log_alpha), "epsilon": jax.nn.sigmoid(stick)}
    return GaussianMixture(q.mean, q.log_std, log_alpha), info


def _metrics(q: GaussianMixture, epsilon: Float[Array, "B M1"]) -> Metrics:
    sticks = {f"epsilon_{m + 1}": jnp.mean(epsilon[:, m]) for m in range(epsilon.shape[1])}
    return component_metrics(q) | sticks


def _check(num_components, num_samples, objective, cap, cap_on, against, refinement, entropy_weight) -> None:
    check_at_least(1, num_components=num_components, num_samples=num_samples)
    check_at_least(0, entropy_weight=entropy_weight)
    known = (
        ("objective", objective, criteria.OBJECTIVES),
        ("place of the cap", cap_on, criteria.CAPS),
        ("opponent of a component", against, criteria.AGAINST),
        ("refinement", refinement, REFINEMENTS),
    )
    for kind, value, names in known:
        if value not in names:
            raise ValueError(unknown(kind, value, names))
    check_limit(cap=cap)
