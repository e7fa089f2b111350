"""What must hold for every registered method, present and future; `cases.py` lists them."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpvae_jax import checkpoint
from gpvae_jax.types import InferenceMethod, Params, Posterior
from tests.cases import BATCH, CASES, LATENT_DIM, NO_GRADIENT, Case, X, assert_close, paths, perturb

SAMPLES, DRAWS, LOSSES = 7, 20_000, 64
SIGMAS = 5.0  # Monte-Carlo tolerance in standard errors: wrong once in a million comparisons
TOLERANCE = {jnp.dtype("float32"): 1e-4, jnp.dtype("float64"): 1e-10}


class Outcome(NamedTuple):
    """Everything a method computes from (params, key, x)."""

    loss: Any
    metrics: Any
    grads: Any
    q: Any
    info: Any
    z: Any
    log_q: Any


def evaluate(method: InferenceMethod, params: Params, key: Any, x: Any) -> Outcome:
    key_loss, key_posterior, key_z = jax.random.split(key, 3)
    (loss, metrics), grads = jax.value_and_grad(method.loss, has_aux=True)(params, key_loss, x)
    q, info = method.posterior(params, key_posterior, x)
    return Outcome(loss, metrics, grads, q, info, *q.sample_and_log_prob(key_z, SAMPLES))


class Subject:
    """A case with its compiled functions, shared by all tests of a method because compiling is what costs."""

    def __init__(self, name: str):
        self.name, self.case, self.traces = name, CASES[name](), 0
        self.keys = jax.random.split(jax.random.key(1), 2)
        self.initial = jax.jit(jax.vmap(self.case.method.init, in_axes=(0, None)))(self.keys, jnp.asarray(X))
        self.stacked = perturb(self.initial, 0)
        self.params = jax.tree.map(lambda leaf: leaf[0], self.stacked)
        self.run = jax.jit(self._counted)
        self.outcome = self.run(self.params, self.keys[0], jnp.asarray(X))

    def _counted(self, params, key, x):
        self.traces += 1
        return evaluate(self.case.method, params, key, x)


@pytest.fixture(scope="module", params=sorted(CASES))
def subject(request) -> Subject:
    return Subject(request.param)


@pytest.fixture(scope="module")
def draws(subject):
    """z[S, B, Z] and log q[S, B] of many samples, with the posterior they came from."""
    z, log_q = jax.jit(lambda q, key: q.sample_and_log_prob(key, DRAWS))(subject.outcome.q, jax.random.key(2))
    return subject.outcome.q, z, log_q


def all_finite(tree: Any) -> bool:
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


def within_error(samples: np.ndarray, expected: Any, slack: float = 1e-3) -> None:
    """The mean over the first axis is `expected` up to its Monte-Carlo error (and float32's)."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(axis=0) / np.sqrt(samples.shape[0])
    difference = np.abs(samples.mean(axis=0) - np.asarray(expected))
    assert (difference <= SIGMAS * error + slack * (1 + np.abs(expected))).all(), (difference, error)


def test_init_is_a_function_of_the_key_alone(subject):
    single = subject.case.method.init(subject.keys[1], jnp.asarray(X))
    assert isinstance(single, Params)
    assert_close(jax.tree.map(lambda leaf: leaf[1], subject.initial), single, 1e-6)
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], subject.initial) for i in (0, 1))
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def test_shapes_and_finite_values(subject):
    outcome = subject.outcome
    assert isinstance(outcome.q, Posterior)
    assert isinstance(outcome.info, dict)
    assert outcome.z.shape == (SAMPLES, BATCH, LATENT_DIM)
    assert outcome.log_q.shape == (SAMPLES, BATCH)
    assert outcome.loss.shape == ()
    assert "elbo" in outcome.metrics
    assert all(value.shape == () for value in outcome.metrics.values())
    assert all_finite(outcome)
    assert all_finite(subject.initial)


def test_a_gradient_reaches_every_parameter(subject):
    zero = {path for path, leaf in paths(subject.outcome.grads).items() if not np.any(leaf)}
    allowed = tuple(NO_GRADIENT.get(subject.name, {}))
    assert not {path for path in zero if not path.startswith(allowed or "\0")}
    assert all(any(path.startswith(prefix) for path in zero) for prefix in allowed), "a stale exception"


def test_jit_equals_eager(subject):
    """In everything but the gradients, which cost most of the time when eager and follow from the same functions."""
    method, params, compiled = subject.case.method, subject.params, subject.outcome
    key_loss, key_posterior, key_z = jax.random.split(subject.keys[0], 3)
    loss, metrics = method.loss(params, key_loss, jnp.asarray(X))
    q, info = method.posterior(params, key_posterior, jnp.asarray(X))
    eager = Outcome(loss, metrics, compiled.grads, q, info, *q.sample_and_log_prob(key_z, SAMPLES))
    assert_close(compiled, eager, TOLERANCE[loss.dtype])


def test_one_trace_whatever_the_values(subject):
    new = jax.tree.map(lambda p, g: p - 0.01 * g, subject.params, subject.outcome.grads)
    subject.run(new, subject.keys[1], 1 - jnp.asarray(X))
    subject.run(jax.tree.map(lambda leaf: leaf[0], subject.initial), subject.keys[0], jnp.asarray(X))
    assert subject.traces == 1


def test_the_key_decides_the_draw(subject):
    again = subject.run(subject.params, subject.keys[0], jnp.asarray(X))
    other = subject.run(subject.params, subject.keys[1], jnp.asarray(X))
    assert_close(again, subject.outcome, 0.0)
    assert np.all(np.asarray(other.z) != np.asarray(subject.outcome.z))
    assert other.loss != subject.outcome.loss


def test_an_example_is_inferred_whatever_its_neighbours(subject):
    x = np.concatenate([X[:1], 1 - X[1:]])
    other = subject.run(subject.params, subject.keys[0], jnp.asarray(x))
    outcome = subject.outcome
    assert_close((other.z[:, 0], other.log_q[:, 0]), (outcome.z[:, 0], outcome.log_q[:, 0]), 1e-5)
    assert np.any(np.asarray(other.z[:, 1:]) != np.asarray(outcome.z[:, 1:]))


def test_pure(subject):
    before, x = jax.tree.map(np.array, subject.params), jnp.asarray(X)
    subject.case.method.loss(subject.params, subject.keys[0], x)
    subject.case.method.posterior(subject.params, subject.keys[0], x)
    assert_close(subject.params, before, 0.0)
    assert (x == X).all()


def test_beta_weighs_the_kl(subject):
    loss = partial(subject.case.method.loss, subject.params, subject.keys[0], jnp.asarray(X))
    np.testing.assert_allclose(loss(beta=jnp.asarray(1.0))[0], loss()[0], rtol=1e-6)
    assert loss(beta=0.5)[0] != loss()[0]


def test_stacked_seeds_equal_single_ones(subject):
    run = jax.vmap(partial(evaluate, subject.case.method), in_axes=(0, None, None))
    both = jax.jit(run)(subject.stacked, subject.keys[0], jnp.asarray(X))
    for i in range(2):
        params = jax.tree.map(lambda leaf, i=i: leaf[i], subject.stacked)
        single = subject.run(params, subject.keys[0], jnp.asarray(X))
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], both), single, 1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_finite_at_blank_and_full_images(subject, value):
    assert all_finite(subject.run(subject.params, subject.keys[0], jnp.full(X.shape, value, jnp.float32)))


def test_finite_at_large_logits_and_latents(subject):
    large = jax.tree.map(lambda leaf: 100 * leaf, subject.params.model)
    assert all_finite(subject.run(subject.params._replace(model=large), subject.keys[0], jnp.asarray(X)))
    z = jnp.full((1, BATCH, LATENT_DIM), 1e4, jnp.float32)
    assert all_finite(subject.case.model.log_likelihood(subject.params.model, jnp.asarray(X), z))
    assert not np.isnan(subject.outcome.q.log_prob(z / 100)).any()  # a hundred of the prior's deviations


def test_density_at_the_samples_is_the_returned_one(subject, draws):
    q, z, log_q = draws
    np.testing.assert_allclose(jax.jit(lambda q, z: q.log_prob(z))(q, z), log_q, rtol=1e-3, atol=1e-3)


def test_density_and_samples_are_the_same_distribution(subject, draws):
    """Against an independent proposal, a Student t at the samples' moments: ∫ q = 1, and E_q[g] both ways."""
    q, z, _ = draws
    z, rng = np.asarray(z, np.float64), np.random.default_rng(3)
    proposals = [stats.multivariate_t(z[:, b].mean(0), np.cov(z[:, b].T), df=5) for b in range(BATCH)]
    other = np.stack([t.rvs(DRAWS, random_state=rng) for t in proposals], axis=1)
    log_t = np.stack([t.logpdf(other[:, b]) for b, t in enumerate(proposals)], axis=1)
    weight = np.exp(np.asarray(q.log_prob(jnp.asarray(other, jnp.float32)), np.float64) - log_t)
    within_error(weight, np.ones(BATCH))
    center, width = z.mean(0), z.std(0)

    def features(z: np.ndarray) -> np.ndarray:
        u = (z - center) / width  # bounded functions of u see place, width and correlation
        pairs = u + np.roll(u, 1, axis=-1)
        return np.concatenate([np.sin(u), np.cos(u), np.cos(pairs)], axis=-1)

    direct, weighted = features(z), weight[..., None] * features(other)
    within_error(direct - weighted, np.zeros(direct.shape[1:]))


def test_offered_moments_and_divergence_agree_with_samples(subject, draws):
    q, z, log_q = draws
    z = np.asarray(z, np.float64)
    if hasattr(q, "mean"):
        within_error(z, q.mean)
    if hasattr(q, "variance"):
        within_error(np.square(z - z.mean(0)), q.variance)
    if hasattr(q, "kl_to_standard_normal"):
        log_prior = stats.norm.logpdf(z).sum(-1)
        within_error(np.asarray(log_q, np.float64) - log_prior, q.kl_to_standard_normal())


def test_float64(subject):
    """Every leaf is float64, and the results are those of float32: posteriors directly, losses on average."""
    single = [subject.run(subject.params, key, jnp.asarray(X)) for key in loss_keys()]
    with jax.enable_x64(True):
        case: Case = CASES[subject.name]()
        x = jnp.asarray(X, jnp.float64)
        initial = jax.eval_shape(case.method.init, jax.random.key(0), x)
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), subject.params)
        assert {path: leaf.shape for path, leaf in paths(initial).items()} == {
            path: leaf.shape for path, leaf in paths(params).items()
        }
        run = jax.jit(lambda params, key, x: evaluate(case.method, params, key, x))
        double = [run(params, key, x) for key in loss_keys()]
        for path, leaf in (paths(initial) | paths(double[0])).items():
            assert leaf.dtype == jnp.float64 or not jnp.issubdtype(leaf.dtype, jnp.floating), path
    first, second = (np.array([outcome.loss for outcome in runs], np.float64) for runs in (single, double))
    error = np.hypot(first.std(), second.std()) / np.sqrt(LOSSES)  # the noise differs: other bits are drawn
    assert abs(first.mean() - second.mean()) <= SIGMAS * error + 1e-4 * abs(second.mean())
    if all_equal(single[0].q, single[1].q):  # the posterior is a function of x alone
        assert_close(single[0].q, double[0].q, 1e-4)


def loss_keys() -> list[Any]:
    return list(jax.random.split(jax.random.key(4), LOSSES))


def all_equal(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(bool(np.all(np.asarray(a) == np.asarray(b))) for a, b in pairs)


def test_checkpoint_round_trip(subject: Subject, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, subject.params)
    step, restored = checkpoint.restore(tmp_path, jax.eval_shape(lambda: subject.params))
    assert step == 3
    assert jax.tree.structure(restored) == jax.tree.structure(subject.params)
    assert_close(restored, subject.params, 0.0)
