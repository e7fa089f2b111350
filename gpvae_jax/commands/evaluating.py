"""`gpvae evaluate`: what a finished run is worth."""

from typing import Any

import jax

from gpvae_jax import cli, plots, runs
from gpvae_jax.checks import check_seed
from gpvae_jax.commands.showing import save_figure
from gpvae_jax.commands.training import describe
from gpvae_jax.evaluate import slow
from gpvae_jax.evaluate.ais import SCHEDULES
from gpvae_jax.evaluate.memory import optional_memory
from gpvae_jax.evaluate.run import SPLITS, evaluate_run, kept_results, params_by_seed, split_examples, summary
from gpvae_jax.evaluate.summaries import gap_summaries, generalization_gaps, uncertainty_summaries
from gpvae_jax.files import write_json
from gpvae_jax.naming import unknown
from gpvae_jax.progress import bars, say, unit_bar
from gpvae_jax.refine import refined, with_steps
from gpvae_jax.report import Estimate
from gpvae_jax.report.columns import MARKED

# estimator -> the splits that it knows
ESTIMATORS = {
    "iwae": ("test", "validation", "train"),
    "ais": ("test", "train"),
    "bdmc": ("test",),
    "gaps": ("test", "train"),
    "uncertainty": ("test",),
}


def evaluate_command(command: cli.Evaluate) -> None:
    """Evaluate a trained run and keep the result in its folder."""
    _check(command)
    run = runs.open_run(command.run)
    describe(run)
    if command.refine is not None:
        run = refined(run, command.refine, command.steps, command.refine_settings)
    elif any(given is not None for given in (command.steps, command.output_rank, command.hidden_rank)):
        run = with_steps(run, command.steps, command.output_rank, command.hidden_rank)
    path = run.folder / SPLITS[command.split]
    before = kept_results(run, command.split)
    if before is None or "iwae" in command.estimators:
        results = _still_true(before or {}, command) | _bounds(run, command)
    else:
        results = before
        say(f"  bounds as {path} holds them; --estimators iwae makes them anew")
    if command.split == "train" and results["seed"] != command.seed:
        raise ValueError(
            f"The bounds kept of the training images are of the binarisation of seed {results['seed']}, and --seed is "
            f"{command.seed}; give that seed, or add iwae to --estimators."
        )
    _show_bounds(results, command.split)
    results |= _slow_estimates(run, command, results["num_examples"])
    write_json(path, results)
    say(f"Kept in {path}")
    if "gaps" in command.estimators and (general := generalization_gaps(run)):
        say("  train less test:")
        for name, value in general.items():
            say(f"  {name:<25} {value['mean']:+8.3f} ± {value['stderr']:.3f}")


def _check(command: cli.Evaluate) -> None:
    """Everything that can be wrong with the options, before anything is computed or written."""
    for name in command.estimators:
        if name not in ESTIMATORS:
            raise ValueError(unknown("estimator", name, ESTIMATORS))
    if command.split not in SPLITS:
        raise ValueError(unknown("split", command.split, SPLITS))
    for name in command.estimators:
        if command.split not in ESTIMATORS[name]:
            raise ValueError(
                f"The estimator {name} does not know the split '{command.split}'; leave it to the test set."
            )
    if command.schedule not in SCHEDULES:
        raise ValueError(unknown("schedule", command.schedule, SCHEDULES))
    counts = {"--slow-examples": command.slow_examples, "--temperatures": command.temperatures}
    counts |= {"--chains": command.chains, "--num-samples": min(command.num_samples, default=0)}
    for option, count in counts.items():
        if count < 1:
            raise ValueError(f"{option} must be at least 1, got {count}.")
    if "uncertainty" in command.estimators and command.slow_examples < 3:
        raise ValueError(f"uncertainty correlates at least 3 examples, got --slow-examples {command.slow_examples}.")
    check_seed(**{"--seed": command.seed})
    optional_memory(command.memory)
    for name, given in (("--output-rank", command.output_rank), ("--hidden-rank", command.hidden_rank)):
        if command.refine is not None and given is not None:
            raise ValueError(f"{name} is of a run of newton's own steps, not of a refinement; leave one of them out.")
    if command.refine is None and command.refine_settings:
        raise ValueError("--refine-settings are of a refinement; name it with --refine.")


def _still_true(before: dict[str, Any], command: cli.Evaluate) -> dict[str, Any]:
    """Of earlier results what new bounds do not touch; gaps and uncertainty are told from the bounds."""
    if lost := sorted({"gaps", "uncertainty"} & before.keys() - set(command.estimators)):
        say(f"  {' and '.join(lost)} of the earlier bounds left out; --estimators tells them anew from the kept optima")
    same = before.get("seed") == command.seed
    return {name: before[name] for name in ("ais", "bdmc") if same and name in before}


def _bounds(run: runs.Run, command: cli.Evaluate) -> dict[str, Any]:
    x = split_examples(run, command.split, command.max_examples, command.seed)
    count, params = len(x), params_by_seed(run)[0]
    # so that what is not trained, or cannot be used so, is told before anything is written
    jax.eval_shape(run.setup.method.posterior, params, jax.random.key(0), x[:1])
    run.folder.mkdir(parents=True, exist_ok=True)
    with bars() as progress:
        task = progress.add_task("evaluating", total=count * (run.setup.config.train.num_seeds or 1), text="")
        return evaluate_run(
            run,
            num_samples=command.num_samples,
            max_examples=command.max_examples,
            memory=optional_memory(command.memory),
            seed=command.seed,
            split=command.split,
            progress=lambda done: progress.update(task, completed=done),
        )


def _show_bounds(results: dict[str, Any], split: str) -> None:
    share = results.get("untrusted")
    marked = share is not None and share > MARKED
    for name, value in results[split].items():
        mark = " †" if marked and name.startswith("iwae_") else ""
        say(f"  {name:<12} {value['mean']:10.3f} ± {value['stderr']:.3f}{mark}")
    if share is not None:
        say(f"  {'k̂ > 0.7':<12} {100 * share:10.1f} % of the examples")
    timing = results["latency_ms"]
    say(f"  {'inference':<12} {timing['median']:10.3f} ms per batch of {results['latency_batch']}")
    examples = f"{results['num_examples']} {split} examples"
    say(f"{examples}; bounds in nats per example, ± standard error over examples.")
    if marked:
        say("† a lower bound that more samples would still raise, not an estimate of log p(x): its weights are heavy-")
        say("  tailed. More samples, or the estimator ais, come closer.")


def _slow_estimates(run: runs.Run, command: cli.Evaluate, evaluated: int) -> dict[str, Any]:
    """What the slow estimators find, for results.json; printed on the way."""
    wanted, count = set(command.estimators), min(command.slow_examples, evaluated)
    annealing: dict[str, Any] = {
        "max_examples": count, "num_temperatures": command.temperatures, "num_chains": command.chains,
        "schedule": command.schedule, "seed": command.seed,
    }  # fmt: skip
    found: dict[str, Any] = {}
    annealed = None
    if "ais" in wanted:
        with unit_bar("annealing") as update:
            annealed = slow.annealed_evidence(run, split=command.split, progress=update, **annealing)
        found["ais"] = {name: summary(value) for name, value in annealed.items()}
        value = found["ais"]["log_evidence"]
        say(f"  {'AIS':<12} {value['mean']:10.3f} ± {value['stderr']:.3f} over {count} examples")
    if "bdmc" in wanted:
        with unit_bar("annealing both ways") as update:
            sides = slow.bracketed_evidence(run, progress=update, **annealing)
        found["bdmc"] = _bracket(sides)
        say(f"  {'BDMC':<12} log p(x) of {count} examples drawn from the model:")
        for name, value in found["bdmc"].items():
            say(f"  {name:<12} {value['mean']:10.3f} ± {value['stderr']:.3f}")
    if wanted & {"gaps", "uncertainty"}:
        families = slow.families_of(run) if "gaps" in wanted else ("diagonal",)
        with unit_bar("optimising each example") as update:
            optima = slow.optimal_bounds(
                run, max_examples=count, families=families, seed=command.seed, split=command.split, progress=update
            )
        found |= _judged(run, command, optima, annealed)
    return found


def _bracket(sides: dict[str, Any]) -> dict[str, Any]:
    lower, upper = (sides[side]["log_evidence"] for side in ("lower", "upper"))
    return {"lower": summary(lower), "upper": summary(upper), "width": summary(upper - lower)}


def _judged(run: runs.Run, command: cli.Evaluate, optima: dict[str, Any], annealed: Any) -> dict[str, Any]:
    """Gaps and uncertainty from the optima."""
    found: dict[str, Any] = {}
    if "gaps" in command.estimators:
        found["gaps"] = gap_summaries(run, optima, annealed, command.split)
        drawn = []
        for family in optima:
            parts = found["gaps"][family]
            for name, value in parts.items():
                say(f"  {family:<9} {name:<14} gap {value['mean']:8.3f} ± {value['stderr']:.3f}")
            both = (Estimate(parts[n]["mean"], parts[n]["stderr"]) for n in ("approximation", "amortization"))
            drawn.append(plots.GapBar(f"q* {family}", *both))
        picture = run.folder / ("gaps.png" if command.split == "test" else f"gaps-{command.split}.png")
        save_figure(plots.gap_bars(drawn), picture)
        say(f"  drawn in {picture}")
    if "uncertainty" in command.estimators:
        found["uncertainty"] = uncertainty_summaries(run, optima)
        say("  Spearman's correlation with the amortization gap, 95 % interval, first seed:")
        for name, score in found["uncertainty"]["spearman_with_amortization_gap"][0].items():
            say(f"  {name:<22} {score['value']:+.2f}  [{score['low']:+.2f}, {score['high']:+.2f}]")
    return found
