"""`gpvae evaluate`: what a finished run is worth."""

import json
from typing import Any

from gpvae_jax import cli, runs
from gpvae_jax.commands.training import describe
from gpvae_jax.evaluate import slow
from gpvae_jax.evaluate.run import SPLITS, evaluate_run, summary
from gpvae_jax.methods.svi import FAMILIES
from gpvae_jax.naming import unknown
from gpvae_jax.progress import bars, say, unit_bar
from gpvae_jax.refine import refined


def evaluate_command(command: cli.Evaluate) -> None:
    """Evaluate a trained run on its test set and keep the result in its folder."""
    for name in command.estimators:
        if name not in ESTIMATORS:
            raise ValueError(unknown("estimator", name, ESTIMATORS))
    if command.split not in SPLITS:
        raise ValueError(unknown("split", command.split, SPLITS))
    if command.split != "test" and set(command.estimators) != {"iwae"}:
        raise ValueError(
            f"Only the estimator iwae knows the split '{command.split}'; leave the others to the test set."
        )
    run = runs.open_run(command.run)
    describe(run)
    if command.refine is not None:
        run = refined(run, command.refine, command.steps, command.refine_settings)
        run.folder.mkdir(parents=True, exist_ok=True)
    elif command.steps is not None or command.refine_settings:
        raise ValueError("--steps and --refine-settings are of a refinement; name it with --refine.")
    path = run.folder / SPLITS[command.split]
    if "iwae" in command.estimators or not path.is_file():
        count = len(getattr(run.setup.dataset, command.split)[: command.max_examples])
        with bars() as progress:
            task = progress.add_task("evaluating", total=count * (run.setup.config.train.num_seeds or 1), text="")
            results = evaluate_run(
                run,
                num_samples=command.num_samples,
                max_examples=command.max_examples,
                seed=command.seed,
                split=command.split,
                progress=lambda done: progress.update(task, completed=done),
            )
    else:
        results = json.loads(path.read_text())
    for name, value in results[command.split].items():
        say(f"  {name:<12} {value['mean']:10.3f} ± {value['stderr']:.3f}")
    if results.get("untrusted") is not None:
        say(f"  {'k̂ > 0.7':<12} {100 * results['untrusted']:10.1f} % of the examples")
    timing = results["latency_ms"]
    say(f"  {'inference':<12} {timing['median']:10.3f} ms per batch of {results['latency_batch']}")
    examples = f"{results['num_examples']} {command.split} examples"
    say(f"{examples}; bounds in nats per example, ± standard error over examples.")
    results |= _slow_estimates(run, command, results["num_examples"])
    runs.write_json(path, results)
    say(f"Kept in {path}")


ESTIMATORS = ("iwae", "ais", "gaps", "uncertainty")


def _slow_estimates(run: runs.Run, command: cli.Evaluate, evaluated: int) -> dict[str, Any]:
    """What the slow estimators find, for results.json; printed on the way."""
    wanted, count = set(command.estimators), min(command.slow_examples, evaluated)
    found: dict[str, Any] = {}
    annealed = optima = None
    if "ais" in wanted:
        with unit_bar("annealing") as update:
            annealed = slow.annealed_evidence(
                run,
                max_examples=count,
                num_temperatures=command.temperatures,
                num_chains=command.chains,
                seed=command.seed,
                progress=update,
            )
        found["ais"] = {name: summary(value) for name, value in annealed.items()}
        value = found["ais"]["log_evidence"]
        say(f"  {'AIS':<12} {value['mean']:10.3f} ± {value['stderr']:.3f} over {count} examples")
    if wanted & {"gaps", "uncertainty"}:
        with unit_bar("optimising each example") as update:
            families = FAMILIES if "gaps" in wanted else FAMILIES[:1]
            optima = slow.optimal_bounds(run, max_examples=count, families=families, seed=command.seed, progress=update)
    if "gaps" in wanted:
        assert optima is not None
        found["gaps"] = slow.gap_summaries(run, optima, annealed)
        for family in optima:
            for name, value in found["gaps"][family].items():
                say(f"  {family:<9} {name:<14} gap {value['mean']:8.3f} ± {value['stderr']:.3f}")
    if "uncertainty" in wanted:
        assert optima is not None
        found["uncertainty"] = slow.uncertainty_summaries(run, optima)
        say("  Spearman's correlation with the amortization gap, 95 % interval, first seed:")
        for name, score in found["uncertainty"]["spearman_with_amortization_gap"][0].items():
            say(f"  {name:<22} {score['value']:+.2f}  [{score['low']:+.2f}, {score['high']:+.2f}]")
    return found
