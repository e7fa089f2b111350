"""Training: a scripted toy whose every step is known by hand, a small vae on the digits, and a known optimum."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpvae_jax.bounds import elbo, log_weights
from gpvae_jax.data import Dataset, load
from gpvae_jax.likelihoods import bernoulli, gaussian
from gpvae_jax.methods import vae
from gpvae_jax.model import latent_model
from gpvae_jax.networks import mlp
from gpvae_jax.observation import Observation, observe, scaled
from gpvae_jax.train import DivergenceError, Trainer, TrainingData, fit, map_batches, trainer
from gpvae_jax.types import InferenceMethod, LatentModel, Params
from tests.cases import assert_close
from tests.exact import LinearGaussian

GREY = scaled(None)
SEEDS, ROOT = 3, jax.random.key(7)


# ---- a toy: one parameter w that grows by one each step, and a validation bound that is a given function of w


class Nothing(NamedTuple):
    """A posterior with a single point."""

    zeros: jax.Array

    def sample_and_log_prob(self, key, num_samples):
        shape = (num_samples, self.zeros.shape[0])
        return jnp.zeros((*shape, 1)), jnp.zeros(shape)


def toy(
    bound: Callable = lambda w: w,
    penalty: Callable = lambda w: 0.0 * w,
    *,
    spread: int = 0,
    observation: Observation = GREY,
    **settings,
) -> Trainer:
    """Loss −w + penalty(w), validation bound bound(w), plain gradient steps of size one.

    It starts at w = 0, or with `spread` at a random multiple of it.
    """

    def init(key, x):
        return Params({"w": (spread * jax.random.randint(key, (), 0, 30)).astype(jnp.float32)}, {})

    def loss(params, key, x, *, beta=1.0):
        w = params.model["w"]
        metrics = {"elbo": w, "beta": jnp.asarray(beta, jnp.float32), "seen": jnp.sum(x)}
        return penalty(w) - w, metrics

    def log_likelihood(theta, x, z):
        return jnp.broadcast_to(bound(theta["w"]), z.shape[:2])

    model = LatentModel(None, lambda theta, z: jnp.zeros(z.shape[:2]), log_likelihood, None, None, (1,), 1)
    method = InferenceMethod(init, lambda params, key, x: (Nothing(jnp.zeros(x.shape[0])), {}), loss)
    return trainer(method, model, optax.sgd(1.0), observation, batch_size=4, **settings)


# two steps an epoch; example i is 2^i, so that sums tell which examples were seen
DATA = TrainingData(2.0 ** np.arange(8, dtype=np.float32)[:, None], np.ones((5, 1), np.float32))


def copy(state):
    """A state's leaves as numpy arrays of their own."""
    return jax.tree.map(np.array, state._replace(key=jax.random.key_data(state.key)))


PLAIN = toy()  # shared, so that it is compiled once


def w_of(state) -> np.ndarray:
    return np.asarray(state.params.model["w"])


def test_patience_stops_and_keeps_the_best():
    """The bound peaks at w = 6, the end of epoch 3; three epochs later the run stops."""
    records = [(r, w_of(r.state)) for r in fit(toy(lambda w: -jnp.square(w - 6), patience=3), DATA, ROOT, epochs=50)]
    last = records[-1][0]
    assert [record.epoch for record, _ in records] == [1, 2, 3, 4, 5, 6]
    assert [w for _, w in records] == [2, 4, 6, 8, 10, 12]
    assert [record.metrics["validation_elbo"] for record, _ in records] == [-16, -4, 0, -4, -16, -36]
    assert [record.metrics["stopped"] for record, _ in records] == [False] * 5 + [True]
    assert (last.metrics["best_epoch"], last.state.best_epoch, last.state.best_bound) == (3, 3, 0)
    assert (last.state.best.model["w"], last.state.step, last.state.epoch) == (6, 12, 6)
    assert last.seconds > 0


def test_an_equal_bound_is_no_improvement():
    records = list(fit(toy(lambda w: 0.0 * w, patience=2), DATA, ROOT, epochs=50))
    assert (len(records), records[-1].metrics["best_epoch"]) == (3, 1)


def test_every_example_is_seen_once_an_epoch_and_the_remainder_rotates():
    nine = TrainingData(2.0 ** np.arange(9, dtype=np.float32)[:, None], DATA.validation)
    left_out = []
    for record in fit(toy(), nine, ROOT, epochs=6):
        left_out.append(511 - 2 * record.metrics["seen"])  # the mean over two steps of the sum over four examples
    assert set(left_out) <= set(2.0 ** np.arange(9))  # eight distinct ones were seen
    assert len(set(left_out)) > 1


@pytest.mark.parametrize(
    "beta",
    [optax.linear_schedule(0.0, 1.0, 10), lambda step: 0.1 * step],
    ids=["optax", "own"],
)
def test_the_beta_schedule_reaches_the_loss(beta):
    got = [record.metrics["beta"] for record in fit(toy(beta=beta), DATA, ROOT, epochs=3)]
    np.testing.assert_allclose(got, [0.05, 0.25, 0.45], rtol=1e-6)


def test_without_settings_beta_is_one_and_nothing_is_averaged():
    record = next(fit(PLAIN, DATA, ROOT, epochs=1))
    assert (record.metrics["beta"], record.state.average) == (1, None)


def test_the_average_follows_its_recursion_and_is_what_is_kept():
    """a ← d a + (1 − d) w with d = min(0.6, (1 + t) / (10 + t)), over every step t."""
    average = 0.0
    for record in fit(toy(ema_decay=0.6), DATA, ROOT, epochs=10):
        for t in (2 * record.epoch - 2, 2 * record.epoch - 1):
            decay = min(0.6, (1 + t) / (10 + t))
            average = decay * average + (1 - decay) * (t + 1)
        np.testing.assert_allclose(record.state.average.model["w"], average, rtol=1e-5)
        np.testing.assert_allclose(record.metrics["validation_elbo"], average, rtol=1e-5)
        np.testing.assert_allclose(record.state.best.model["w"], average, rtol=1e-5)


# ---- failures


def nan_from(limit: float) -> Callable:
    return lambda w: jnp.where(w >= limit, jnp.nan, 0.0) * w


FAILURES = {
    "loss": (toy(penalty=nan_from(5)), 5),
    # infinite at w = 4, and seen in the next loss
    "gradient alone": (toy(penalty=lambda w: 0 * jnp.sqrt(jnp.abs(w - 4))), 5),
    "first step of an epoch": (toy(penalty=nan_from(4)), 4),
    "infinite loss": (toy(penalty=lambda w: jnp.where(w >= 5, jnp.inf, 0.0)), 5),
    "validation, after finite steps": (toy(bound=lambda w: w + nan_from(6)(w)), 5),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_names_its_step_and_keeps_the_state_before(kind):
    failing, step = FAILURES[kind]
    records = fit(failing, DATA, ROOT, epochs=10)
    next(records)
    kept = copy(next(records).state)
    with pytest.raises(DivergenceError, match=rf"not finite at step {step} \(epoch 3\).*Lower the learning") as caught:
        next(records)
    error = caught.value
    assert (error.epoch, error.step, int(error.state.failed_step)) == (3, step, step)
    assert_close(copy(error.state._replace(failed_step=jnp.asarray(-1))), kept, 0.0)
    assert np.isfinite(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(kept)])).all()


def starts() -> np.ndarray:
    """Where the random toy's seeds start."""
    keys = jnp.stack([jax.random.fold_in(ROOT, r) for r in range(SEEDS)])
    return w_of(jax.vmap(toy(spread=10).init, in_axes=(0, None))(keys, DATA))


def test_a_failed_seed_freezes_and_the_others_go_on_until_all_have_failed():
    """Losses fail from w = limit on, and seed r starts at start[r]: it fails at step limit − start[r]."""
    start = starts()
    assert len(set(start)) == SEEDS
    limit, worst = start.max() + 3, start.argmax()
    records = fit(toy(penalty=nan_from(limit), spread=10), DATA, ROOT, epochs=1000, num_seeds=SEEDS)
    for _ in range(4):
        record = next(records)
    metrics, others = record.metrics, np.arange(SEEDS) != worst
    np.testing.assert_array_equal(w_of(record.state), np.where(others, start + 8, start + 2))
    np.testing.assert_array_equal(metrics["failed_step"], np.where(others, -1, 3))
    assert np.isnan(metrics["loss"][worst])
    assert np.isfinite(metrics["loss"][others]).all()
    np.testing.assert_array_equal(metrics["validation_elbo"][others], (start + 8)[others])
    with pytest.raises(DivergenceError, match="not finite at step 3 ") as caught:
        list(records)
    np.testing.assert_array_equal(caught.value.state.failed_step, limit - start)
    last_good = start + 2 * ((limit - start) // 2)
    np.testing.assert_array_equal(w_of(caught.value.state), last_good)


# ---- several seeds


def test_each_seed_has_its_own_stopping_epoch_and_equals_its_single_run():
    stopping = toy(lambda w: -jnp.square(w - 34), patience=2, spread=1)
    together = list(fit(stopping, DATA, ROOT, epochs=50, num_seeds=SEEDS))
    ends = []
    for r in range(SEEDS):
        alone = list(fit(stopping, DATA, jax.random.fold_in(ROOT, r), epochs=50))
        ends.append(len(alone))
        mine = [{name: value[r] for name, value in record.metrics.items()} for record in together]
        for record, metrics in zip(alone, mine, strict=False):
            assert record.metrics == pytest.approx(metrics)
        assert all(np.isnan(metrics["loss"]) for metrics in mine[len(alone) :])
        assert all(metrics["stopped"] for metrics in mine[len(alone) - 1 :])
        final = jax.tree.map(lambda leaf, r=r: leaf[r], together[-1].state)
        assert_close(copy(final), copy(alone[-1].state), 0.0)
    assert len(set(ends)) > 1
    assert len(together) == max(ends)


def test_several_seeds_resume_together():
    run, states = toy(spread=10, patience=5), []
    for record in fit(run, DATA, ROOT, epochs=6, num_seeds=SEEDS):
        states.append(jax.tree.map(jnp.copy, record.state))
    rest = list(fit(run, DATA, state=jax.tree.map(jnp.copy, states[1]), epochs=6))
    assert [record.epoch for record in rest] == [3, 4, 5, 6]
    assert_close(copy(rest[-1].state), copy(states[-1]), 0.0)


# ---- a small vae on the handwritten digits


@pytest.fixture(scope="module")
def digits():
    """A trainer with its counter of traces, its data and what it was made of."""
    full = load("digits")
    small: Dataset = full._replace(train=full.train[:256], validation=full.validation[:100])
    dataset, observation = observe(small, "dynamic", 0)
    model = latent_model(mlp((3,), (16,), (8, 8, 1)), bernoulli())
    method = vae(model, mlp((8, 8, 1), (16,)))
    bound = trainer(method, model, optax.adam(3e-3), observation, batch_size=64, validation_samples=2)
    traces = []

    def epoch(state, data):
        traces.append(state.epoch)
        return bound.epoch(state, data)

    data = TrainingData(dataset.train, dataset.validation)
    return bound._replace(epoch=epoch), traces, data, (model, method, observation)


@pytest.fixture(scope="module")
def run(digits):
    """Ten epochs of run 0: every epoch's metrics, and copies of all states."""
    bound, traces, data, _ = digits
    records = [
        record._replace(state=jax.tree.map(jnp.copy, record.state))
        for record in fit(bound, data, jax.random.fold_in(ROOT, 0), epochs=10)
    ]
    return records, len(traces)


def test_one_trace_per_fit(run):
    records, traces = run
    assert [record.epoch for record in records] == list(range(1, 11))
    assert traces == 1


def test_the_loss_falls_and_the_bound_rises(run):
    first, last = run[0][0].metrics, run[0][-1].metrics
    assert last["loss"] < first["loss"] - 5
    assert last["validation_elbo"] > first["validation_elbo"] + 5
    assert last["elbo"] == pytest.approx(-last["loss"], rel=1e-5)
    assert all(isinstance(value, float | int | bool) for value in last.values())


def test_the_best_parameters_reproduce_the_best_bound(digits, run):
    """The validation pass as a plain loop: batches of 64, noise from key 0 folded with the batch's number."""
    _, _, data, (model, method, observation) = digits
    state, values = run[0][-1].state, []
    for number in range(2):
        x = observation.evaluate(jnp.asarray(data.validation[(np.arange(64) + 64 * number) % 100]))
        key_posterior, key_z = jax.random.split(jax.random.fold_in(jax.random.key(0), number))
        q, _ = method.posterior(state.best, key_posterior, x)
        values.append(elbo(log_weights(model, state.best.model, q, key_z, x, 2)))
    assert state.best_bound == max(record.metrics["validation_elbo"] for record in run[0])
    np.testing.assert_allclose(np.concatenate(values)[:100].mean(), state.best_bound, rtol=1e-5)


def test_resuming_is_bit_identical_and_leaves_the_given_state(digits, run):
    records, _ = run
    state = jax.tree.map(jnp.copy, records[3].state)
    before = copy(state)
    rest = list(fit(digits[0], digits[2], state=state, epochs=10))
    assert_close(copy(state), before, 0.0)
    assert [record.epoch for record in rest] == [5, 6, 7, 8, 9, 10]
    for old, new in zip(records[4:], rest, strict=True):
        assert old.metrics == new.metrics
    assert_close(copy(rest[-1].state), copy(records[-1].state), 0.0)


def test_seeds_trained_together_equal_seeds_trained_alone(digits, run):
    bound, _, data, _ = digits
    *_, together = fit(bound, data, ROOT, epochs=10, num_seeds=SEEDS)
    singles = [run[0][-1]]
    for r in range(1, SEEDS):
        *_, last = fit(bound, data, jax.random.fold_in(ROOT, r), epochs=10)
        singles.append(last)
    for r, single in enumerate(singles):
        mine = jax.tree.map(lambda leaf, r=r: leaf[r], together.state)
        assert_close(mine.params, single.state.params, 1e-3)  # forty Adam steps amplify rounding
        assert mine.best_bound == pytest.approx(float(single.state.best_bound), rel=1e-4)
    bounds = [single.state.best_bound for single in singles]
    assert np.ptp(bounds) > 0.01  # and they are different runs


@pytest.mark.parametrize(("binarization", "moves"), [("dynamic", True), ("static", False)])
def test_only_dynamic_training_images_are_drawn_anew_each_epoch(binarization, moves):
    grey = np.full((8, 50), 0.5, np.float32)
    dataset, observation = observe(Dataset("grey", grey, grey, grey, None, "", {}), binarization, 0)
    records = fit(toy(observation=observation), TrainingData(dataset.train, dataset.validation), ROOT, epochs=4)
    assert (len({record.metrics["seen"] for record in records}) > 1) == moves


# ---- the known optimum


def test_a_linear_vae_reaches_the_exact_evidence():
    """Data of a linear-Gaussian model; the best linear decoder is probabilistic PCA, known in closed form.

    Its columns can be turned until the posterior is diagonal, so nothing separates the ELBO from the evidence.
    """
    rng = np.random.default_rng(1)
    source = LinearGaussian(rng.standard_normal((5, 2)) * [1.0, 0.6], rng.standard_normal(5), 0.5)
    x = source.data(1, 512).astype(np.float32)
    dataset, observation = observe(Dataset("line", x, x, x, None, "", {}), "none", 0)
    model = latent_model(mlp((2,), (), (5,)), gaussian())
    method = vae(model, mlp((5,), (), (4,)), num_samples=8)
    rate = optax.cosine_decay_schedule(0.02, 4 * 150)
    linear = trainer(method, model, optax.adam(rate), observation, batch_size=128)
    *_, last = fit(linear, TrainingData(dataset.train, dataset.validation), ROOT, epochs=150)
    theta = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), last.state.params.model)
    out = theta["decoder"]["out"]
    learned = LinearGaussian(out["kernel"].T, out["bias"], float(np.exp(theta["likelihood"]["log_variance"])))
    evidence = learned.log_evidence(x).mean()

    spectrum = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    noise = spectrum[:3].mean()
    best = -0.5 * (5 * np.log(2 * np.pi) + np.log(spectrum[3:]).sum() + 3 * np.log(noise) + 5)
    assert best - 0.01 < evidence < best + 1e-4

    q, _ = method.posterior(last.state.params, ROOT, jnp.asarray(x))
    log_w = np.asarray(log_weights(model, last.state.params.model, q, ROOT, jnp.asarray(x), 400), np.float64)
    error = log_w.mean(axis=1).std() / 400**0.5
    assert -5 * error < evidence - log_w.mean() < 0.01 + 5 * error


# ---- batches, and what is refused


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (3, 4), (1, 1)])
def test_map_batches_counts_every_example_once(count, batch_size):
    raw, shapes = jnp.arange(2.0 * count).reshape(count, 2), []

    def double(batch, key):
        shapes.append(batch.shape)
        return {"twice": 2 * batch, "noise": jax.random.normal(key, (batch.shape[0],))}

    results = map_batches(double, raw, ROOT, batch_size)
    np.testing.assert_array_equal(results["twice"], 2 * raw)
    assert set(shapes) == {(batch_size, 2)}
    batches = -(-count // batch_size)
    noise = [jax.random.normal(jax.random.fold_in(ROOT, i), (batch_size,)) for i in range(batches)]
    np.testing.assert_array_equal(results["noise"], np.concatenate(noise)[:count])


def test_too_little_data_is_refused():
    with pytest.raises(ValueError, match=r"batch of 4 needs at least as many training examples, got 3; lower the"):
        next(fit(PLAIN, TrainingData(DATA.train[:3], DATA.validation), ROOT, epochs=1))
    with pytest.raises(ValueError, match=r"validation set is empty"):
        next(fit(PLAIN, TrainingData(DATA.train, DATA.validation[:0]), ROOT, epochs=1))


def test_data_off_the_likelihoods_support_are_refused(digits):
    bound, _, data, _ = digits
    with pytest.raises(ValueError, match=r"bernoulli likelihood expects data in \[0, 1\], got values from 0 to 200"):
        next(fit(bound, TrainingData(data.train, 200 * np.asarray(data.validation)), ROOT, epochs=1))


def test_a_run_needs_exactly_one_beginning():
    for arguments in ({}, {"key": ROOT, "state": PLAIN.init(ROOT, DATA)}):
        with pytest.raises(ValueError, match="give exactly one of the two"):
            next(fit(PLAIN, DATA, **arguments, epochs=1))
    with pytest.raises(ValueError, match="num_seeds must be at least 1, got 0"):
        next(fit(PLAIN, DATA, ROOT, epochs=1, num_seeds=0))


def test_a_finished_run_yields_nothing():
    *_, last = fit(PLAIN, DATA, ROOT, epochs=2)
    assert list(fit(PLAIN, DATA, state=last.state, epochs=2)) == []
