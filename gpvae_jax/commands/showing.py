"""`gpvae sample`, `plot`, `export` and `list`: what there is, and what a finished run can give."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpvae_jax import build, cli, compare, plots, runs, settings
from gpvae_jax.checks import check_seed
from gpvae_jax.data import DATASETS
from gpvae_jax.deploy import PLATFORMS, export_inference
from gpvae_jax.evaluate.panels import posterior_panels_of
from gpvae_jax.evaluate.run import params_by_seed
from gpvae_jax.files import write_bytes, write_npz
from gpvae_jax.likelihoods import LIKELIHOODS
from gpvae_jax.methods import METHODS
from gpvae_jax.observation import BINARIZATIONS
from gpvae_jax.progress import say
from gpvae_jax.report import png
from gpvae_jax.types import Params


def sample_command(command: cli.Sample) -> None:
    """Draw examples from a trained model: samples.png and samples.npz."""
    if command.count < 1:
        raise ValueError(f"--count must be at least 1, got {command.count}.")
    check_seed(**{"--seed": command.seed})
    trained = runs.open_trained(command.run)
    theta = _member(trained.params, command.member).model
    out = command.out or command.run
    out.mkdir(parents=True, exist_ok=True)
    z, x = trained.model.sample(theta, jax.random.key(command.seed), command.count)
    mean = np.asarray(trained.model.mean(theta, z))
    write_npz(out / "samples.npz", {"z": np.asarray(z), "x": np.asarray(x), "mean": mean})
    say(f"{command.count} samples: {out / 'samples.npz'} (z, x and mean)")
    if plots.drawable(trained.model.data_shape):
        save_figure(plots.images_grid(mean, columns=math.ceil(math.sqrt(command.count))), out / "samples.png")
        say(f"{out / 'samples.png'} (means)")


def _member(each: Sequence[Params], number: int) -> Params:
    """The parameters of one seed of a run."""
    if not 0 <= number < len(each):
        raise ValueError(f"--member must be from 0 to {len(each) - 1}, the run's seeds, got {number}.")
    return each[number]


POSTERIORS = 6  # test examples whose posteriors are drawn


def plot_command(command: cli.Plot) -> None:
    """Draw what a run folder holds."""
    run = runs.open_run(command.run)
    name, params = run.setup.config.method, _member(params_by_seed(run), command.member)
    figures = {}
    if epochs := runs.history(command.run):
        figures["learning_curve.png"] = plots.learning_curves({name: epochs})
    if plots.drawable(run.setup.model.data_shape):
        figures |= _of_examples(run, name, params)
    if not figures:
        raise ValueError(
            f"{command.run} was trained for no epochs, and its examples of shape {run.setup.model.data_shape} are "
            "neither images nor vectors, so there is nothing to draw."
        )
    out = command.out or command.run
    out.mkdir(parents=True, exist_ok=True)
    for file, figure in figures.items():
        save_figure(figure, out / file)
        say(f"{out / file}")


def _of_examples(run: runs.Run, name: str, params: Params) -> dict[str, Any]:
    """Pictures of examples: reconstructions, prior samples and, of more than one latent, posteriors."""
    x, drawn = compare.test_images(run), compare.draw(run, params, 4 * compare.SHOWN, seed=0)
    figures = {
        "reconstructions.png": plots.reconstructions(x, {name: compare.reconstruct(run, params, x)}),
        "prior_samples.png": plots.prior_samples({name: drawn}),
    }
    if run.setup.model.latent_dim > 1:
        panels = posterior_panels_of(run.setup.method, run.setup.model, params, jnp.asarray(x[:POSTERIORS]))
        figures["posteriors.png"] = plots.posterior_panels(panels)
    return figures


def export_command(command: cli.Export) -> None:
    """Write a run's inference as a program of its own."""
    trained = runs.open_trained(command.run)
    params, out = _member(trained.params, command.member), command.out or command.run / "inference.jaxexport"
    content = export_inference(trained.method, trained.model, params, num_samples=command.num_samples)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, content)
    size, shape = len(content) / 2**20, "×".join(map(str, trained.model.data_shape))
    say(f"{out}: {size:.1f} MiB, takes a seed (uint32) and x of shape B×{shape} (float32), for {', '.join(PLATFORMS)}")
    grey = "as the data are" if trained.levels is None else f"grey level / {trained.levels - 1}"
    drawn = "" if trained.config.data.binarization == "none" else ", then drawn as 0 or 1 with that chance"
    say(f"x is {grey}{drawn}.")
    say(f"Load it with jax.export.deserialize, or gpvae_jax.deploy.load_inference({str(out)!r}).")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    write_bytes(path, png(figure))


def list_command(command: cli.List) -> None:
    """Everything that has a name."""
    tell = functools.partial(say, markup=True)
    tell("[bold]Methods[/bold] (settings with their defaults; base=NAME,setting=value,… where it says so)")
    for name, factory in METHODS.items():
        own = ", ".join(f"{k}={v}" for k, v in settings.method_settings(factory).items())
        own += ", base" if settings.has_base(factory) else ""
        tell(f"  {name:<14}{(factory.__doc__ or '').strip().splitlines()[0]}\n  {'':<14}[dim]{own}[/dim]")
    tell("[bold]Data sets[/bold] (or the path of your own .npz or .npy file)")
    for name, spec in DATASETS.items():
        tell(f"  {name:<18}{'×'.join(map(str, spec.shape)):<10} {spec.description}")
    tell(f"[bold]Likelihoods[/bold]    {', '.join(LIKELIHOODS)}")
    tell(f"[bold]Binarizations[/bold]  {', '.join(BINARIZATIONS)}")
    tell(f"[bold]Architectures[/bold]  {', '.join(build.ARCHITECTURES)}")
