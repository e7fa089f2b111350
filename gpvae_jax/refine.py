"""Refinement at test time: another method's steps from a finished run's posterior, or more of the run's own."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpvae_jax.build import BASE, build_encoder, build_model_and_method
from gpvae_jax.compare import folder_name
from gpvae_jax.methods import METHODS
from gpvae_jax.methods.gpvae import as_gaussian
from gpvae_jax.methods.newton import newton
from gpvae_jax.methods.savi import savi
from gpvae_jax.methods.svi import svi
from gpvae_jax.naming import unknown
from gpvae_jax.reduced_outputs import require_reduced_outputs, with_reduced_outputs
from gpvae_jax.runs import Run
from gpvae_jax.settings import parse_settings
from gpvae_jax.types import InferenceMethod, Params

# method -> its factory, what differs from its defaults where nothing was trained through the steps, and the
# name of its number of steps
REFINEMENTS: dict[str, tuple[Callable[..., InferenceMethod], dict[str, Any], str]] = {
    "newton": (
        newton,
        {
            "curvature": "gauss_newton",
            "covariance": "full",
            "step_size": 1.0,
            "halvings": 4,
            "inner_samples": 4,
            "steps": 2,
        },
        "steps",
    ),
    "savi": (savi, {"learn_step_size": False, "inner_samples": 8}, "steps"),
    "svi": (svi, {}, "max_steps"),
}
STEPPING = ("newton", "savi", "iterative", "vlae")  # methods whose parameters serve any number of their own steps
TRAINED = ("learned", "lowrank")  # curvatures that exist only where a method was trained with them


def refined(run: Run, name: str, steps: int | None = None, settings: Sequence[str] = ()) -> Run:
    """The run with its posterior refined by "newton", "savi" or "svi"; its results get a folder of their own.

    The run's method is the base, its parameters are used as they are; of a GPVAE the base is the Gaussian with the
    marginal's moments (`methods.as_gaussian`); with use_gp_prior=true the variance of its mean error is "newton"'s
    trust region.
    settings: the refining method's own, as name=value. Raises ValueError on an unknown name or setting, and where a
    setting needs training; in use, where the base's posterior is no diagonal Gaussian.
    """
    if name not in REFINEMENTS:
        raise ValueError(unknown("refinement", name, REFINEMENTS))
    factory, defaults, count = REFINEMENTS[name]
    chosen = parse_settings(name, factory, [*settings, *([] if steps is None else [f"{count}={steps}"])])
    if chosen.get("curvature") in TRAINED or chosen.get("learn_step_size"):
        raise ValueError(f"A refinement at test time has nothing learned; train with --method {name} instead.")
    setup = run.setup
    base = as_gaussian(setup.method) if setup.config.method == "gpvae" else setup.method
    encoder = build_encoder(setup.config.model, setup.model.data_shape)
    inner = factory(setup.model, encoder, base=base, **defaults | chosen)

    def posterior(params: Params, key: Any, x: Any) -> Any:
        phi = params.inference if name == "svi" else {"base": params.inference}  # svi's φ is its base's
        return inner.posterior(Params(params.model, phi), key, x)

    label = folder_name(":".join([name, *(f"{key}={value}" for key, value in sorted(chosen.items()))]))
    method = setup.method._replace(posterior=posterior)
    return run._replace(
        folder=run.folder / "refined" / label,
        setup=setup._replace(method=method),
        trained=run.trained or run.folder,
        refinement=name,
    )


def with_steps(
    run: Run, steps: int | None = None, output_rank: int | None = None, hidden_rank: int | None = None
) -> Run:
    """The run with another number of its method's own steps on the same parameters; results get their own folder.

    What was trained through one step may well take more where the answer counts. output_rank: of newton's steps the
    gradients from so many directions of the decoder's output, and with hidden_rank from so many of every hidden layer
    (`reduced_outputs`). Raises ValueError where nothing is given or hidden_rank alone, where the method takes no steps,
    on a number below 0, where the run has no such gradients, and on a run that is `refined` already, which can only
    come after; in use on a rank out of range.
    """
    if run.refinement is not None:
        raise ValueError(
            f"{run.folder} is refined by {run.refinement}, and its own steps come before that; give the run its steps "
            "first and refine the result."
        )
    if hidden_rank is not None and output_rank is None:
        raise ValueError("Hidden directions go with those of the output: give an output rank as well.")
    if steps is None and output_rank is None:
        raise ValueError("Say what is to change, the number of steps or of output directions; got neither.")
    if output_rank is not None:
        _check_reducible(run, steps)
    method = run.setup.config.method
    if method not in STEPPING:
        raise ValueError(
            f"{run.folder} is a run of {method}, which takes no steps of its own ({', '.join(STEPPING)} do); "
            "name a refinement with --refine."
        )
    changed = run if steps is None else with_settings(run, {"steps": steps})
    words = [] if steps is None else [f"steps-{steps}"]
    if output_rank is not None:

        def reduced(params: Params) -> Params:
            return with_reduced_outputs(run.setup.model, run.adapt(params), output_rank, hidden_rank)

        changed = changed._replace(adapt=reduced)
        words += [f"output-rank-{output_rank}", *([] if hidden_rank is None else [f"hidden-rank-{hidden_rank}"])]
    folder = run.folder / "refined" / "-".join(words)
    return changed._replace(folder=folder, trained=run.trained or run.folder)


def _check_reducible(run: Run, steps: int | None) -> None:
    """Raise ValueError, one sentence, where a run's steps cannot take their gradients from a few output directions."""
    config = run.setup.config
    own = parse_settings(config.method, METHODS[config.method], (s for s in config.settings if not s.startswith(BASE)))
    if config.method != "newton" or own.get("curvature") in ("gauss_newton", "hessian"):
        raise ValueError(
            f"{run.folder} is no run of newton with a curvature of the encoder's, whose gradients can be taken from a "
            "few output directions; leave --output-rank out."
        )
    require_reduced_outputs(run.setup.model)
    if 0 in (steps, own.get("steps") if steps is None else None):
        raise ValueError("No step takes no gradient, from however few output directions; leave --output-rank out.")


def with_settings(run: Run, changes: Mapping[str, Any]) -> Run:
    """The run, in its own folder, with other settings of its method over the same parameters.

    Raises ValueError on an unknown setting or one out of range.
    """
    config = run.setup.config
    own = (item for item in config.settings if item.partition("=")[0] not in changes)
    wanted = dataclasses.replace(config, settings=(*own, *(f"{name}={value}" for name, value in changes.items())))
    train = run.setup.data.train
    _, method = build_model_and_method(wanted, run.setup.likelihood, train.shape[1:], len(train))
    return run._replace(setup=run.setup._replace(config=wanted, method=method))
