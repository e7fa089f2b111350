"""RecMix as a method: its identities, who is trained on what, growth."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.methods.mixture import mixture
from gpvae_jax.methods.recmix import growth, recmix
from gpvae_jax.methods.vae import vae
from gpvae_jax.mixtures import criteria
from gpvae_jax.mixtures.posterior import stick_breaking
from tests.cases import X, assert_close, paths, perturb, small_encoder, small_model

KEY, SAMPLES = jax.random.key(0), 4
MODEL, ENCODER = small_model(), small_encoder()


def make(**settings):
    """With weights that depend on the input, the general case, where nothing else is said."""
    return recmix(MODEL, ENCODER, num_samples=SAMPLES, **{"epsilon": "amortized"} | settings)


@cache
def start(**settings):
    """Parameters of three components, away from any symmetry; all objectives and refinements share them."""
    return perturb(jax.jit(make(**settings).init)(KEY, jnp.asarray(X)), 1, scale=0.3)


def infer(method, params):
    return jax.jit(method.posterior)(params, KEY, jnp.asarray(X))


def gradient_of(method):
    """Loss, metrics and gradient, as a compiled function of (params, beta)."""
    run = jax.jit(jax.value_and_grad(method.loss, has_aux=True))

    def gradient(params, beta=1.0):
        (loss, metrics), grads = run(params, KEY, jnp.asarray(X), beta=beta)
        return loss, metrics, grads

    return gradient


def gradient(method, params):
    return gradient_of(method)(params)


@cache
def joint_gradient():
    """Of L(Q) at `start()`, which several tests compare with."""
    return gradient(make(refinement="joint"), start())


def component(tree, m):
    return jax.tree.map(lambda leaf: leaf[m], tree)


@pytest.mark.parametrize("objective", ["joint", *criteria.OBJECTIVES])
def test_one_component_is_the_vae(objective):
    x, base = jnp.asarray(X), vae(MODEL, ENCODER, num_samples=SAMPLES, analytic_kl=False)
    settings = {"refinement": "joint"} if objective == "joint" else {"refinement": "recursive", "objective": objective}
    method = make(num_components=1, **settings)
    alone, params = jax.jit(base.init)(KEY, x), jax.jit(method.init)(KEY, x)
    assert_close(params.model, alone.model, 0.0)
    assert_close(component(params.inference["components"], 0), alone.inference, 0.0)
    assert params.inference["epsilon"] == {}
    q, q_alone = infer(method, params)[0], infer(base, alone)[0]
    assert_close((q.means[0], q.log_stds[0]), (q_alone.mean, q_alone.log_std), 0.0)
    np.testing.assert_array_equal(q.log_alpha, 0.0)
    z, log_q = jax.jit(lambda q: q.sample_and_log_prob(KEY, 3))(q)
    np.testing.assert_allclose(log_q, jax.jit(lambda q, z: q.log_prob(z))(q_alone, z), rtol=1e-6)
    mine_of, theirs_of = gradient_of(method), gradient_of(base)
    for beta in (1.0, 0.4):
        mine, theirs = mine_of(params, beta), theirs_of(alone, beta)
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-5)
        assert_close(mine[2].model, theirs[2].model, 1e-5)
        assert_close(component(mine[2].inference["components"], 0), theirs[2].inference, 1e-5)


@pytest.mark.parametrize("settings", [{}, {"refinement": "recursive"}, {"refinement": "newest"}])
def test_the_loss_is_the_mixtures_bound_and_the_metrics_its_parts(settings):
    method = make(**settings)
    params = start()
    loss, metrics, _ = gradient(method, params)
    np.testing.assert_allclose(loss, -metrics["elbo"], rtol=1e-6)
    np.testing.assert_allclose(metrics["elbo"], metrics["log_likelihood"] - metrics["kl"], rtol=1e-5)
    q, info = infer(method, params)
    for m in range(3):
        np.testing.assert_allclose(metrics[f"smallest_std_{m}"], np.exp(q.log_stds[m]).min(), rtol=1e-5)
        np.testing.assert_allclose(metrics[f"alpha_{m}"], np.mean(info["alpha"][:, m]), rtol=1e-5)
    assert "epsilon_0" not in metrics
    np.testing.assert_allclose(metrics["epsilon_2"], np.mean(info["epsilon"][:, 1]), rtol=1e-5)
    np.testing.assert_allclose(info["alpha"][:, 2], info["epsilon"][:, 1], rtol=1e-5)


def draws_of(method, params):
    """The loss's own draws, as a function of the components' parameters alone."""
    key_posterior, key_z = jax.random.split(KEY)
    q, _ = method.posterior(params, key_posterior, jnp.asarray(X))
    z = q.strata(q.noise(key_z, SAMPLES))
    log_joint = jnp.stack(
        [
            MODEL.log_likelihood(params.model, jnp.asarray(X), z[m]) + MODEL.log_prior(params.model, z[m])
            for m in range(3)
        ]
    )
    return criteria.Draws(q, z, log_joint, 1.0)


CRITERIA = {
    "bkl": lambda draws, current: criteria.bounded_kl(draws, current, cap=2.0, cap_on="example"),
    "greedy": criteria.greedy,
    "entropy": lambda draws, current: criteria.entropy_regularized(draws, current, entropy_weight=0.5),
}


@pytest.mark.parametrize(
    ("objective", "against"), [("bkl", "earlier"), ("bkl", "others"), ("greedy", "earlier"), ("entropy", "earlier")]
)
def test_recursive_gradients_are_each_partys_own(objective, against):
    """θ and ε get the gradient of L(Q); component m that of its own criterion, of its draws and nothing else."""
    settings = {"objective": objective, "against": against, "cap": 2.0, "entropy_weight": 0.5}
    method = make(refinement="recursive", **settings)
    params = start()
    grads, joint = gradient(method, params)[2], joint_gradient()[2]
    assert_close(grads.model, joint.model, 1e-5)
    assert_close(grads.inference["epsilon"], joint.inference["epsilon"], 1e-5)
    current = criteria.current_mixture(3, against)

    @jax.jit
    @jax.grad
    def own(phi_m, m, params):
        def put(leaf, new):
            return leaf.at[m].set(new)

        phi = params.inference | {"components": jax.tree.map(put, params.inference["components"], phi_m)}
        return -jnp.mean(CRITERIA[objective](draws_of(method, params._replace(inference=phi)), current)[m])

    for m in range(3):
        expected = own(component(params.inference["components"], m), m, params)
        assert_close(component(grads.inference["components"], m), expected, 1e-5)


def test_newest_trains_the_newest_component_and_its_epsilon_alone():
    params, grads_joint = start(), joint_gradient()[2]
    grads, grads_recursive = (gradient(make(refinement=r), params)[2] for r in ("newest", "recursive"))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads.model))
    phi = grads.inference
    for m in (0, 1):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(component(phi["components"], m)))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(component(phi["epsilon"], 0)))
    assert_close(component(phi["components"], 2), component(grads_recursive.inference["components"], 2), 1e-6)
    assert_close(component(phi["epsilon"], 1), component(grads_joint.inference["epsilon"], 1), 1e-5)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(component(phi["epsilon"], 1)))


def test_greedy_against_the_others_is_the_joint_gradient():
    """L(Q) in q_m with the rest held is a partial derivative of L(Q): two ways to the same numbers."""
    coordinate = make(refinement="recursive", objective="greedy", against="others")
    params = start()
    assert_close(gradient(coordinate, params)[2], joint_gradient()[2], 1e-5)


def test_joint_is_the_end_to_end_mixture_with_other_weights():
    recursion = make(epsilon="constant", refinement="joint")
    free = mixture(MODEL, ENCODER, weights="constant", num_samples=SAMPLES)
    params = start(epsilon="constant")
    log_alpha = stick_breaking(params.inference["epsilon"]["logit"])
    same = {"components": params.inference["components"], "weights": {"logit": log_alpha}}
    mine, theirs = gradient(recursion, params), gradient(free, params._replace(inference=same))
    np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-5)
    assert_close(mine[2].model, theirs[2].model, 1e-5)
    assert_close(mine[2].inference["components"], theirs[2].inference["components"], 1e-5)


GROWN = [
    {"initialization": "perturbed", "epsilon": "amortized", "shared_trunk": False},
    {"initialization": "perturbed", "epsilon": "constant", "shared_trunk": True},
    {"initialization": "fresh", "epsilon": "constant", "shared_trunk": False},
    {"initialization": "fresh", "epsilon": "amortized", "shared_trunk": True},
]


@pytest.mark.parametrize("settings", GROWN, ids=lambda settings: "-".join(map(str, settings.values())))
def test_growth_from_a_trained_vae(settings):
    base = vae(MODEL, ENCODER)
    trained = perturb(jax.jit(base.init)(KEY, jnp.asarray(X)), 2)
    steps = growth(MODEL, ENCODER, initial_epsilon=0.2, **settings)
    kept = {name: settings[name] for name in ("epsilon", "shared_trunk")}
    method = make(initial_epsilon=0.2, **kept)
    one = steps.start(trained)
    three = jax.jit(lambda p, k: steps.grow(steps.grow(p, k), jax.random.fold_in(k, 1)))(one, KEY)
    (single, _), (alone, _), (q, info) = infer(method, one), infer(base, trained), infer(method, three)
    assert_close((single.means[0], single.log_stds[0]), tuple(alone), 0.0)
    np.testing.assert_array_equal(single.log_alpha, 0.0)
    assert_close((q.means[0], q.log_stds[0]), tuple(alone), 1e-6)
    np.testing.assert_allclose(info["alpha"], np.tile([0.64, 0.16, 0.2], (len(X), 1)), rtol=1e-5)
    assert min(np.mean(np.abs(q.means[i] - q.means[j])) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.01
    assert_close(three.model, trained.model, 0.0)
    built = jax.eval_shape(method.init, KEY, jnp.asarray(X))
    shapes = [{path: leaf.shape for path, leaf in paths(tree).items()} for tree in (three, built)]
    assert shapes[0] == shapes[1]


def test_an_unperturbed_copy_changes_nothing():
    steps, method = growth(MODEL, ENCODER, perturbation=0.0, epsilon="amortized"), make(num_components=1)
    one = jax.jit(method.init)(KEY, jnp.asarray(X))
    z = jnp.asarray(np.random.default_rng(0).normal(size=(6, len(X), 3)), jnp.float32)
    log_prob = jax.jit(lambda params: method.posterior(params, KEY, jnp.asarray(X))[0].log_prob(z))
    before, after = (log_prob(p) for p in (one, jax.jit(steps.grow)(one, KEY)))
    np.testing.assert_allclose(before, after, rtol=1e-5)


@pytest.mark.parametrize("kind", ["amortized", "constant"])
def test_the_epsilons_start_where_told(kind):
    method = make(epsilon=kind, initial_epsilon=0.25)
    _, info = infer(method, jax.jit(method.init)(KEY, jnp.asarray(X)))
    np.testing.assert_allclose(info["epsilon"], 0.25, rtol=1e-5)
    np.testing.assert_allclose(info["alpha"][0], [0.75**2, 0.25 * 0.75, 0.25], rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_components": 0}, "num_components must be at least 1, got 0"),
        ({"objective": "kl"}, "Unknown objective 'kl'; did you mean 'bkl'"),
        ({"cap_on": "batch"}, "known are: example, sample"),
        ({"against": "other"}, "did you mean 'others'"),
        ({"refinement": "recursiv"}, "did you mean 'recursive'"),
        ({"epsilon": "const"}, "did you mean 'constant'"),
        ({"initial_epsilon": 1.0}, "strictly between 0 and 1"),
        ({"cap": 0.0}, "cap must be above 0"),
        ({"entropy_weight": float("nan")}, "entropy_weight"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        recmix(MODEL, ENCODER, **settings)


def test_bad_growth_is_refused():
    with pytest.raises(ValueError, match="did you mean 'perturbed'"):
        growth(MODEL, ENCODER, initialization="perturb")


@pytest.mark.parametrize("kind", ["amortized", "constant"])
def test_all_components_weigh_alike_at_first(kind):
    method = make(num_components=4, epsilon=kind, initial_epsilon=0.0)
    _, info = infer(method, jax.jit(method.init)(KEY, X))
    np.testing.assert_allclose(info["alpha"], 0.25, rtol=1e-5)
    steps = growth(MODEL, ENCODER, epsilon=kind, initial_epsilon=0.0)
    params, grow = steps.start(jax.jit(vae(MODEL, ENCODER).init)(KEY, X)), jax.jit(steps.grow)
    for m in range(2, 5):
        params = grow(params, jax.random.key(m))
        _, info = infer(make(epsilon=kind), params)
        np.testing.assert_allclose(info["alpha"], 1 / m, rtol=1e-5)


def test_newest_of_one_trunk_trains_a_head_alone():
    method = make(refinement="newest", shared_trunk=True)
    components = gradient(method, start(shared_trunk=True))[2].inference["components"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(components["encoder"]))
    changed = [[bool(np.any(leaf[m])) for leaf in jax.tree.leaves(components["head"])] for m in range(3)]
    assert changed == [[False, False], [False, False], [True, True]]
