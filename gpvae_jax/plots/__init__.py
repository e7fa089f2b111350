"""Figures from numpy arrays: pure functions that return a `matplotlib.figure.Figure` and leave pyplot alone.

A method keeps one colour and marker through a report: make them once, `styles = method_styles(names)`, over every
method of the report, and hand them to each figure.
"""

from gpvae_jax.plots.curves import learning_curves
from gpvae_jax.plots.gaps import GapBar, gap_bars
from gpvae_jax.plots.images import drawable, images_grid, prior_samples, reconstructions
from gpvae_jax.plots.latents import latent_scatter
from gpvae_jax.plots.orders import order_curve
from gpvae_jax.plots.posterior import Gaussian, Panel, posterior_panels
from gpvae_jax.plots.refinement import calibration_curves, refinement_curves
from gpvae_jax.plots.style import Style, method_styles
from gpvae_jax.plots.tradeoff import likelihood_against_time

__all__ = [
    "GapBar",
    "Gaussian",
    "Panel",
    "Style",
    "calibration_curves",
    "drawable",
    "gap_bars",
    "images_grid",
    "latent_scatter",
    "learning_curves",
    "likelihood_against_time",
    "method_styles",
    "order_curve",
    "posterior_panels",
    "prior_samples",
    "reconstructions",
    "refinement_curves",
]
