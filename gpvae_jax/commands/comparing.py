"""`gpvae compare`: several methods, trained, evaluated and put side by side."""

import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from rich.progress import Progress, TaskID

from gpvae_jax import build, cli, compare, runs
from gpvae_jax.commands.training import progress_text
from gpvae_jax.config import Config
from gpvae_jax.data import Dataset
from gpvae_jax.evaluate.memory import optional_memory
from gpvae_jax.evaluate.run import evaluate_run, kept_results, stored_examples
from gpvae_jax.methods import METHODS
from gpvae_jax.progress import STEPS, bars, page, say
from gpvae_jax.report import table

WIDE = 1000  # characters, more than any table needs


def compare_command(command: cli.Compare) -> None:
    """Train what is not yet trained, evaluate what is not yet evaluated, and write the report."""
    wanted = compare.configs(command.run, command.methods or tuple(METHODS), command.out)
    memory = optional_memory(command.memory)
    if not command.num_samples or min(command.num_samples) < 1:
        raise ValueError(f"--num-samples must be at least 1, got {' '.join(map(str, command.num_samples)) or 'none'}.")
    if command.max_examples is not None and command.max_examples < 1:
        raise ValueError(f"--max-examples must be at least 1, got {command.max_examples}.")
    data = runs.load_data(command.run)
    wanted = _checked(wanted, command.out, data)
    compared = {}
    with bars() as progress:
        task = progress.add_task("comparing", total=STEPS * len(wanted), text="")
        for number, (label, settings) in enumerate(wanted.items()):
            step = functools.partial(_advance, progress, task, STEPS * number, label)
            compared[label] = finish_run(
                command.out / compare.folder_name(label),
                settings,
                data,
                num_samples=command.num_samples,
                max_examples=command.max_examples,
                memory=memory,
                step=step,
            )
        progress.update(task, text="timing inference and writing the report")
        made, path = compare.report(command.out, compared, shlex.join(["gpvae", *sys.argv[1:]]))
        progress.update(task, text="")
    out = page(WIDE)
    out.print(table(made, "rich", width=out.width))
    say(compare.conclusion(compared))
    say(f"Report: {path}   the table as Markdown, CSV and LaTeX beside it, one run folder per method")


def _checked(wanted: dict[str, Config], out: Path, data: Dataset) -> dict[str, Config]:
    """The rows' settings as they are recorded, all checked before the first is trained."""
    found: dict[str, Config] = {}
    for label, settings in wanted.items():
        earlier = [str(out / compare.folder_name(title)) for title in found]
        found[label] = runs.checked(settings, data, start_is_there=settings.train.start_from not in earlier).config
    return found


def _advance(progress: Progress, task: TaskID, start: int, label: str, done: float, text: str) -> None:
    progress.update(task, completed=round(start + done * STEPS), text=f"{label}: {text}")


def train_run(
    folder: Path, settings: Config, data: Dataset, step: Callable[[float, str], None] = lambda done, text: None
) -> runs.Run:
    """The run of this folder, made if need be, trained to its end from where it stands; `step` hears the share done.

    Raises ValueError where the folder holds a run of other settings.
    """
    settings = build.resolve(settings, data)
    exists = (folder / "config.json").exists()
    run = runs.open_run(folder, data) if exists else runs.create(folder, settings, data)
    compare.same_settings(run, settings)
    step(0.0, "compiling")
    for record in runs.records(run, resume=True, progress=lambda done: step(done, "fitting in closed form")):
        step(record.epoch / settings.train.epochs, progress_text(record))
    return run


def finish_run(
    folder: Path,
    settings: Config,
    data: Dataset,
    *,
    num_samples: tuple[int, ...],
    max_examples: int | None,
    split: str = "test",
    memory: int | None = None,
    step: Callable[[float, str], None] = lambda done, text: None,
) -> runs.Run:
    """A trained and evaluated run in its folder, doing only what is still missing."""
    exists = (folder / "config.json").exists()
    if exists and _evaluated(run := runs.open_run(folder, data), num_samples, max_examples, split):
        compare.same_settings(run, build.resolve(settings, data))
    else:
        run = train_run(folder, settings, data, lambda done, text: step(0.8 * done, text))
        step(0.8, "evaluating")
        count = len(stored_examples(run, split)[:max_examples]) * (settings.train.num_seeds or 1)
        evaluate_run(
            run,
            num_samples=num_samples,
            max_examples=max_examples,
            split=split,
            memory=memory,
            progress=lambda done: step(0.8 + 0.2 * done / count, "evaluating"),
        )
    step(1.0, "done")
    return run


def _evaluated(run: runs.Run, num_samples: tuple[int, ...], max_examples: int | None, split: str) -> bool:
    if not runs.ended(run):
        return False
    results, count = kept_results(run, split), len(stored_examples(run, split)[:max_examples])
    return results is not None and (results["num_samples"], results["num_examples"]) == (list(num_samples), count)
