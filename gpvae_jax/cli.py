"""The command line: `gpvae train | evaluate | compare | sample | plot | export | list`.

This file knows the arguments and nothing else; it imports neither JAX nor Flax, so that `--help` answers at once.
"""

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from gpvae_jax import __version__
from gpvae_jax.config import Config, read
from gpvae_jax.naming import unknown

# what a user can cause; anything else is a bug and keeps its traceback
EXPECTED = (
    ValueError,
    OSError,
    ModuleNotFoundError,
    ArithmeticError,
)


@dataclass(frozen=True)
class Train:
    """Train one method and keep everything about it in a run folder."""

    run: tyro.conf.OmitArgPrefixes[Config] = field(default_factory=Config)
    out: Path | None = None
    """The run folder (default: runs/DATA-METHOD-SEED)."""
    config: Path | None = None
    """JSON file with settings, for example another run's config.json; options given beside it win."""
    resume: bool = False
    """Go on from the run folder's last checkpoint."""
    tensorboard: bool = False
    """Also write TensorBoard event files into the run folder."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained run on its test set: bounds, latency; and annealed evidence, gaps and uncertainty if asked."""

    run: tyro.conf.Positional[Path]
    """The run folder; nothing else needs to be repeated."""
    num_samples: tuple[int, ...] = (100, 5000)
    """Sample sizes K of the importance-weighted bounds."""
    refine: str | None = None
    """Refine the run's posterior per example by newton, savi or svi before it is judged; results go to the run's
    refined/ folder."""
    steps: int | None = None
    """Steps of that refinement (default: the method's own); without one, of a run of newton, savi, iterative or vlae,
    in place of those it was trained with."""
    output_rank: int | None = None
    """Of a run of newton with a Gaussian likelihood, take the steps' gradients from so many directions of the decoder's
    output: from 100, say, two steps for the price of one."""
    hidden_rank: int | None = None
    """With --output-rank, also from so many directions of the decoder's hidden layers but the first: from 128 of 400,
    say, a step costs a third less again."""
    refine_settings: tuple[str, ...] = ()
    """The refining method's other settings as name=value, e.g. covariance=full (see `gpvae list`)."""
    estimators: tuple[str, ...] = ("iwae",)
    """iwae: ELBO, IWAE-K, effective sample size, Pareto k̂; ais: annealed importance sampling; bdmc: the same and its
    reverse on data drawn from the model, between which log p(x) lies; gaps: approximation and amortization gap by
    per-example optimisation; uncertainty: does a score predict the amortization gap. All but the first are slow, keep
    what they have, and go on from it."""
    split: str = "test"
    """test; validation, on which settings are chosen, for iwae alone (kept as validation.json); or train, for iwae, ais
    and gaps (kept as train.json): with both splits' gaps the generalisation gap is shown."""
    max_examples: int | None = None
    """Use only the first so many test examples."""
    memory: str | None = None
    """What the decoder's activations may take while bounds are computed, as in 64MiB or 2GiB; it changes no result
    (default: 8MiB on a CPU, about its cache, and 512MiB elsewhere)."""
    slow_examples: int = 100
    """Test examples of the slow estimators."""
    temperatures: int = 1000
    """Temperatures of annealed importance sampling."""
    schedule: str = "sigmoid"
    """How they are spaced: sigmoid, denser at both ends, or linear."""
    chains: int = 16
    """Its chains per example."""
    seed: int = 0
    """Seed of the evaluation's noise; equal seeds pair methods per example."""


@dataclass(frozen=True)
class Compare:
    """Train several methods with the same decoder on the same data, evaluate them, and write a table and a report.

    Methods whose run folder is already complete are not trained again.
    """

    run: tyro.conf.OmitArgPrefixes[Config] = field(default_factory=Config)
    methods: tuple[str, ...] = ()
    """The rows (default: the configuration file's, else every method): [TITLE=]NAME:setting=value:…, settings being the
    method's own or, with a dot, the run's, as in wide=vae:model.capacity=iaf and slow=iaf:train.learning_rate=1e-4;
    train.start_from=TITLE starts a row from an earlier one's trained parameters."""
    out: Path = Path("runs/compare")
    """Folder of the runs and the report."""
    config: Path | None = None
    """JSON file with settings, and the rows under "methods"; options given beside it win."""
    num_samples: tuple[int, ...] = (100, 1000)
    """Sample sizes K of the importance-weighted bounds."""
    max_examples: int | None = None
    """Use only the first so many test examples."""
    memory: str | None = None
    """What the decoder's activations may take while bounds are computed, as in 64MiB or 2GiB (default: 8MiB on a CPU,
    512MiB elsewhere)."""


@dataclass(frozen=True)
class Sample:
    """Draw from a trained run's generative model: a picture and the arrays."""

    run: tyro.conf.Positional[Path]
    count: int = 64
    """How many examples to draw."""
    seed: int = 0
    member: int = 0
    """Which of the run's seeds."""
    out: Path | None = None
    """Where to write (default: the run folder)."""


@dataclass(frozen=True)
class Plot:
    """Draw a run's learning curve, reconstructions, prior samples, and its posteriors over the true ones."""

    run: tyro.conf.Positional[Path]
    member: int = 0
    """Which of the run's seeds (the learning curve has all)."""
    out: Path | None = None
    """Where to write (default: the run folder)."""


@dataclass(frozen=True)
class Export:
    """Write a trained run's inference, parameters included, as one program that needs JAX and flatbuffers alone."""

    run: tyro.conf.Positional[Path]
    out: Path | None = None
    """Where to write (default: inference.jaxexport in the run folder)."""
    num_samples: int = 1
    """Draws of z per call."""
    member: int = 0
    """Which of the run's seeds, counted from 0."""


@dataclass(frozen=True)
class List:
    """List methods with their settings, data sets, likelihoods and architectures."""


COMMANDS: dict[str, type] = {
    "train": Train,
    "evaluate": Evaluate,
    "compare": Compare,
    "sample": Sample,
    "plot": Plot,
    "export": Export,
    "list": List,
}


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status. What a user did wrong is one sentence on stderr, not a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(overview())
        elif arguments[0] == "--version":
            print(f"gpvae {__version__}")
        else:
            command = parse(arguments)
            from gpvae_jax import commands  # imports JAX

            commands.run(command)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, as in `gpvae list | head`, wants no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print(
            "\nInterrupted; a run folder keeps its last checkpoint, continue it with --resume.",
            file=sys.stderr,
        )
        return 130
    except EXPECTED as error:
        if os.environ.get("GPVAE_JAX_DEBUG"):
            raise
        print(f"gpvae: {_sentence(error)}", file=sys.stderr)
        return 1
    return 0


def _sentence(error: Exception) -> str:
    """What went wrong; of an error of the operating system, without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return str(error)


def parse(arguments: list[str]) -> Any:
    """The arguments as one of the dataclasses above; a `--config` file supplies the defaults of the rest."""
    name, *rest = arguments
    if name not in COMMANDS:
        raise ValueError(unknown("command", name, COMMANDS))
    kind, path = COMMANDS[name], _config_file(rest)
    default = None
    if path is not None and kind in (Train, Compare):
        settings, methods = read(path)
        default = Compare(run=settings, methods=methods) if kind is Compare else kind(run=settings)
    return tyro.cli(kind, prog=f"gpvae {name}", args=rest, default=default)


def overview() -> str:
    """What `gpvae --help` prints."""
    lines = [f"  gpvae {name:<10}{(kind.__doc__ or '').splitlines()[0]}" for name, kind in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gpvae COMMAND [options]      (gpvae COMMAND --help lists a command's options; gpvae --version)",
            "",
            "Variational autoencoders with better posteriors, and the means to judge them.",
            "",
            *lines,
        ]
    )


def _config_file(arguments: list[str]) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == "--config" and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith("--config="):
            return argument.partition("=")[2]
    return None
