"""The slow estimates of a finished run: annealed evidence, its bracket on simulated data, and each example's optimum.

Each keeps what it has in an .npz of the run folder, with its settings, and goes on from there when it is asked for
again with the same ones.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpvae_jax import runs
from gpvae_jax.evaluate.ais import SCHEDULES, Annealed, ais, reverse_ais
from gpvae_jax.evaluate.annealing import Watch
from gpvae_jax.evaluate.families import best_own
from gpvae_jax.evaluate.gaps import optimal_elbos
from gpvae_jax.evaluate.kept import BATCH, Arrays, Work, kept
from gpvae_jax.evaluate.run import params_by_seed, split_examples
from gpvae_jax.gaussians.family import AnyGaussian
from gpvae_jax.methods.svi import FAMILIES
from gpvae_jax.naming import unknown

KEPT = ("log_evidence", "standard_error", "ess", "acceptance")  # of `Annealed`


def annealed_evidence(
    run: runs.Run,
    *,
    max_examples: int,
    num_temperatures: int = 1000,
    num_chains: int = 16,
    schedule: str = "sigmoid",
    seed: int = 0,
    split: str = "test",
    progress: Callable[[float], None] = lambda done: None,
) -> Arrays:
    """`ais` of a split's first examples, arrays [R, N], kept in ais.npz; progress from 0 to 1.

    Raises ValueError on an unknown schedule or split, no examples, and counts below 1.
    """
    settings = _annealing_settings(max_examples, num_temperatures, num_chains, schedule, seed) | _of_split(split)
    examples = split_examples(run, split, max_examples, seed)

    def batches(work: Work) -> Iterator[Arrays]:
        for number in range(work.first, _count(len(examples))):
            x = jnp.asarray(examples[number * BATCH : (number + 1) * BATCH])
            key = jax.random.fold_in(jax.random.key(seed), number)
            call = partial(ais, run.setup.model, work.params.model, x, key)
            yield _resumable(call, work, number, _count(len(examples)), settings)

    return kept(run, f"ais{_suffix(split)}.npz", settings, batches, progress)


def bracketed_evidence(
    run: runs.Run,
    *,
    max_examples: int,
    num_temperatures: int = 1000,
    num_chains: int = 16,
    schedule: str = "sigmoid",
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Arrays]:
    """BDMC: {"lower", "upper"} bounds on log p(x) of examples drawn from the model itself, arrays [R, N].

    The settings are those of `annealed_evidence`: how far the two are apart says how far that can be off. Kept in
    bdmc-lower.npz and bdmc-upper.npz. Raises ValueError as it does.
    """
    settings = _annealing_settings(max_examples, num_temperatures, num_chains, schedule, seed)
    model, found = run.setup.model, {}
    for part, side in enumerate(("lower", "upper")):

        def batches(work: Work, side: str = side) -> Iterator[Arrays]:
            for number in range(work.first, _count(max_examples)):
                count = min(BATCH, max_examples - number * BATCH)
                key_data, *keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), 3)
                z, x = model.sample(work.params.model, key_data, count)
                lower = partial(ais, model, work.params.model, x, keys[0])
                upper = partial(reverse_ais, model, work.params.model, x, z, keys[1])
                yield _resumable(
                    lower if side == "lower" else upper, work, number, _count(max_examples), settings | {"side": side}
                )

        def told(done: float, part: int = part) -> None:
            progress((part + done) / 2)

        found[side] = kept(run, f"bdmc-{side}.npz", settings, batches, told)
    return found


def optimal_bounds(
    run: runs.Run,
    *,
    max_examples: int,
    families: Sequence[str] = FAMILIES,
    seed: int = 0,
    split: str = "test",
    first: int = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> Arrays:
    """L[q*] of a split's examples from the `first` on in these families, [R, N], kept in optima-FAMILY.npz.

    families: "diagonal", "full", "own" (the method's own posterior, its leaves free for every example). Raises
    ValueError on another, and as `split_examples`.
    """
    for family in families:
        if family not in (*FAMILIES, "own"):
            raise ValueError(unknown("family", family, (*FAMILIES, "own")))
    examples, found = split_examples(run, split, max_examples, seed, first), {}
    for part, family in enumerate(families):
        settings = {"examples": max_examples, "family": family, "seed": seed} | _of_split(split)
        settings |= {"first": first} if first else {}
        search = _own_search if family == "own" else partial(_gaussian_search, family=family)

        def told(done: float, part: int = part) -> None:
            progress((part + done) / len(families))

        name = f"optima-{family}{_suffix(split)}.npz"
        found[family] = kept(run, name, settings, partial(search, run, examples, seed), told)["elbo"]
    return found


def families_of(run: runs.Run) -> tuple[str, ...]:
    """The two Gaussian families, and "own" where the method's posterior is no Gaussian."""
    x = jnp.zeros((1, *run.setup.model.data_shape))
    params, key = params_by_seed(run)[0], jax.random.key(0)
    q = jax.eval_shape(lambda p: run.setup.method.posterior(p, key, x)[0], params)
    return FAMILIES if isinstance(q, AnyGaussian) else (*FAMILIES, "own")


def _gaussian_search(run: runs.Run, examples: np.ndarray, seed: int, work: Work, *, family: str) -> Iterator[Arrays]:
    searched = optimal_elbos(
        run.setup.method, run.setup.model, work.params, examples, jax.random.key(seed), family=family,
        batch_size=BATCH, first=work.first,
    )  # fmt: skip
    for number, optimum in searched:
        work.told(min(1.0, (number + 1) * BATCH / len(examples)))
        yield {"elbo": np.asarray(optimum.elbo), "converged": np.asarray(optimum.converged, np.float32)}


def _own_search(run: runs.Run, examples: np.ndarray, seed: int, work: Work) -> Iterator[Arrays]:
    find = jax.jit(partial(best_own, run.setup.method, run.setup.model))
    for number in range(work.first, _count(len(examples))):
        x = jnp.asarray(examples[number * BATCH : (number + 1) * BATCH])
        found = find(work.params, x, jax.random.fold_in(jax.random.key(seed), number))
        work.told((number + 1) / _count(len(examples)))
        yield {"elbo": np.asarray(found.elbo), "last_gain": np.asarray(found.last_gain)}


def _resumable(call: Callable[..., Annealed], work: Work, number: int, count: int, settings: dict[str, Any]) -> Arrays:
    """One batch of annealing, which goes on from the middle."""
    transitions, half = 2 * settings["temperatures"], work.half(number)
    watch = Watch(lambda done: work.told((number + done / transitions) / count), half.save, half.load())
    schedule = SCHEDULES[settings.get("schedule", "sigmoid")](settings["temperatures"])
    found = call(schedule=schedule, num_chains=settings["chains"], watch=watch)
    half.remove()
    return {name: getattr(found, name) for name in KEPT}


def _annealing_settings(examples: int, temperatures: int, chains: int, schedule: str, seed: int) -> dict[str, Any]:
    if schedule not in SCHEDULES:
        raise ValueError(unknown("schedule", schedule, SCHEDULES))
    counts = {"examples": examples, "temperatures": temperatures, "chains": chains}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"Annealing needs {name} of at least 1, got {count}.")
    return counts | {"seed": seed} | ({} if schedule == "sigmoid" else {"schedule": schedule})


def _of_split(split: str) -> dict[str, str]:
    return {} if split == "test" else {"split": split}


def _suffix(split: str) -> str:
    return "" if split == "test" else f"-{split}"


def _count(examples: int) -> int:
    return -(-examples // BATCH)
