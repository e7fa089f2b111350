"""The slow estimates of a finished run: annealed evidence, gaps, and whether the GP's uncertainty predicts them.

Each keeps what it has after every batch in an .npz of the run folder, with its settings, and goes on from there when
it is asked for again with the same ones.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpvae_jax import runs
from gpvae_jax.evaluate.ais import ais, sigmoid_schedule
from gpvae_jax.evaluate.gaps import Gaps, gaps, optimal_elbos
from gpvae_jax.evaluate.run import params_by_seed, summary
from gpvae_jax.evaluate.scores import example_scores
from gpvae_jax.evaluate.uncertainty import spearman
from gpvae_jax.methods.svi import FAMILIES
from gpvae_jax.types import Params

BATCH = 100
Arrays = dict[str, np.ndarray]


def annealed_evidence(
    run: runs.Run,
    *,
    max_examples: int,
    num_temperatures: int = 1000,
    num_chains: int = 16,
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> Arrays:
    """`ais` of the first test examples, arrays [R, N], kept in ais.npz; progress from 0 to 1."""
    schedule = sigmoid_schedule(num_temperatures)
    settings = {"examples": max_examples, "temperatures": num_temperatures, "chains": num_chains, "seed": seed}

    def of_batch(params: Params, x: jax.Array, key: jax.Array, told: Callable[[float], None]) -> Arrays:
        found = ais(
            run.setup.model,
            params.model,
            x,
            key,
            schedule=schedule,
            num_chains=num_chains,
            progress=lambda done: told(done / (2 * num_temperatures)),
        )
        return {name: getattr(found, name) for name in ("log_evidence", "standard_error", "ess", "acceptance")}

    def batches(params: Params, raw: np.ndarray, first: int, told: Callable[[float], None]) -> Iterator[Arrays]:
        count = -(-len(raw) // BATCH)
        for number in range(first, count):
            x = run.setup.observation.evaluate(jnp.asarray(raw[number * BATCH : (number + 1) * BATCH]))
            key = jax.random.fold_in(jax.random.key(seed), number)
            yield of_batch(params, x, key, lambda part, number=number: told((number + part) / count))  # type: ignore[misc]

    return _kept(run, "ais.npz", settings, batches, progress)


def optimal_bounds(
    run: runs.Run,
    *,
    max_examples: int,
    families: Sequence[str] = FAMILIES,
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> Arrays:
    """L[q*] of the first test examples for the Gaussians of these families, [R, N], kept in optima-FAMILY.npz."""
    setup, found = run.setup, {}
    for part, family in enumerate(families):
        settings = {"examples": max_examples, "family": family, "seed": seed}

        def batches(
            params: Params, raw: np.ndarray, first: int, told: Callable[[float], None], family: str = family
        ) -> Iterator[Arrays]:
            searched = optimal_elbos(
                setup.method,
                setup.model,
                params,
                raw,
                jax.random.key(seed),
                family=family,
                observe=setup.observation.evaluate,
                batch_size=BATCH,
                first=first,
            )
            for number, optimum in searched:
                told(min(1.0, (number + 1) * BATCH / len(raw)))
                yield {"elbo": np.asarray(optimum.elbo), "converged": np.asarray(optimum.converged, np.float32)}

        def told(done: float, part: int = part) -> None:
            progress((part + done) / len(families))

        found[family] = _kept(run, f"optima-{family}.npz", settings, batches, told)["elbo"]
    return found


def gap_summaries(run: runs.Run, optima: Arrays, annealed: Arrays | None) -> dict[str, Any]:
    """Means and standard errors of the gaps per family, against the larger of AIS and IWAE; needs test.npz."""
    with np.load(run.folder / "test.npz") as arrays:
        test = {name: arrays[name].astype(np.float64) for name in arrays.files}
    count = next(iter(optima.values())).shape[1]
    evidence = np.max([values[:, :count] for name, values in test.items() if name.startswith("iwae_")], axis=0)
    if annealed is not None:
        evidence = np.maximum(evidence[:, : annealed["log_evidence"].shape[1]], annealed["log_evidence"])
    count = evidence.shape[1]
    made: dict[str, Any] = {"examples": count, "evidence": summary(evidence)}
    for family, best in optima.items():
        per_seed = [gaps(e, b[:count], o[:count]) for e, b, o in zip(evidence, best, test["elbo"], strict=True)]
        made[family] = {name: summary(np.stack([getattr(g, name) for g in per_seed])) for name in Gaps._fields}
    return made


def uncertainty_summaries(run: runs.Run, optima: Arrays) -> dict[str, Any]:
    """Spearman's correlation, per seed, of each score with the amortization gap; trivial scores beside the GP's.

    The gap is that of the diagonal Gaussian. A method without GP errors has the trivial scores alone.
    """
    with np.load(run.folder / "test.npz") as arrays:
        elbo = arrays["elbo"].astype(np.float64)
    best, made = optima["diagonal"], []
    count = best.shape[1]
    x = run.setup.observation.evaluate(jnp.asarray(run.setup.dataset.test[:count]))
    for seed, params in enumerate(params_by_seed(run)):
        gap = best[seed] - elbo[seed, :count]
        scores = example_scores(run.setup.method, run.setup.model, params, x) | {"negative_elbo": -elbo[seed, :count]}
        made.append({name: spearman(score, gap)._asdict() for name, score in scores.items()})
    return {"examples": count, "spearman_with_amortization_gap": made}


def _kept(
    run: runs.Run,
    name: str,
    settings: dict[str, Any],
    batches: Callable[[Params, np.ndarray, int, Callable[[float], None]], Iterator[Arrays]],
    progress: Callable[[float], None],
) -> Arrays:
    """Per-example arrays [R, N] from batches, written after each; what is there with the same settings is kept."""
    raw, path = run.setup.dataset.test[: settings["examples"]], run.folder / name
    each, done = params_by_seed(run), _read(path, settings)
    for seed, params in enumerate(each):
        mine = done.setdefault(seed, [])

        def told(part: float, seed: int = seed) -> None:
            progress((seed + part) / len(each))

        for arrays in batches(params, raw, len(mine), told):
            mine.append({key: np.asarray(value) for key, value in arrays.items()})
            _write(path, settings, done)
        told(1.0)
    joined = [{key: np.concatenate([batch[key] for batch in done[s]]) for key in done[s][0]} for s in range(len(each))]
    return {key: np.stack([arrays[key] for arrays in joined]) for key in joined[0]}


def _read(path: Path, settings: dict[str, Any]) -> dict[int, list[Arrays]]:
    done: dict[int, list[Arrays]] = {}
    if path.is_file():
        with np.load(path) as stored:
            if json.loads(str(stored["settings"])) == settings:
                for name in sorted(set(stored.files) - {"settings"}, key=lambda n: [int(i) for i in n.split("/")[:2]]):
                    seed, number, key = name.split("/")
                    batches = done.setdefault(int(seed), [])
                    batches.extend({} for _ in range(int(number) + 1 - len(batches)))
                    batches[int(number)][key] = stored[name]
    return done


def _write(path: Path, settings: dict[str, Any], done: dict[int, list[Arrays]]) -> None:
    flat = {
        f"{seed}/{number}/{key}": value
        for seed, batches in done.items()
        for number, arrays in enumerate(batches)
        for key, value in arrays.items()
    }
    runs.write_npz(path, {"settings": np.asarray(json.dumps(settings))} | flat)
