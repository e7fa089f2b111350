"""The figure of posteriors over two latents."""

import io

import numpy as np
import pytest
from matplotlib.contour import ContourSet
from matplotlib.patches import Ellipse

from gpvae_jax.plots.posterior import LEVELS, Gaussian, Panel, Path, posterior_panels


def panel(title="one", **changes):
    first, second = np.linspace(-1, 3, 40), np.linspace(-2, 2, 30)
    log_density = -0.5 * ((first[:, None] - 1) / 0.3) ** 2 - 0.5 * (second[None] / 0.8) ** 2
    return Panel(title, first, second, log_density, **changes)


def posteriors(figure):
    return [axes for axes in figure.axes if axes.get_xlabel() == "z₁"]


def test_contours_lie_at_their_drops_and_axes_the_right_way_round():
    (axes,) = posteriors(posterior_panels([panel()]))
    (contours,) = [c for c in axes.get_children() if isinstance(c, ContourSet)]
    np.testing.assert_allclose(contours.levels, LEVELS)
    outline = contours.allsegs[2][0]  # two nats down: two standard deviations
    np.testing.assert_allclose(np.ptp(outline, axis=0), [4 * 0.3, 4 * 0.8], rtol=0.05)
    np.testing.assert_allclose(outline.mean(axis=0), [1, 0], atol=0.1)
    assert (axes.get_xlim(), axes.get_ylim()) == ((-1, 3), (-2, 2))
    assert axes.get_ylabel() == "z₂"


def test_gaussians_samples_and_images():
    image = np.zeros((5, 5, 1))
    panels = [
        panel(
            "base $q$", gaussians=[Gaussian("base", np.array([1.0, 0]), np.array([0.3, 0.8]))], images=[("in", image)]
        ),
        panel(gaussians=[Gaussian(f"c{m}", np.zeros(2), np.ones(2), 0.5) for m in range(2)], samples=np.zeros((7, 2))),
    ]
    figure = posterior_panels(panels)
    first, second = posteriors(figure)
    ellipses = [p for p in first.patches if isinstance(p, Ellipse)]
    assert [(e.width, e.height) for e in ellipses] == [(0.6, 1.6), (1.2, 3.2)]
    assert len(second.patches) == 4
    assert len(second.lines[0].get_xdata()) == 7
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[1:] == ["base", "c0", "c1", "samples"]
    assert "nats below its top" in names[0]
    assert first.get_title() == r"base \$q\$"
    assert any(axes.get_xlabel() == "in" for axes in figure.axes)
    figure.savefig(io.BytesIO(), format="png")


def test_a_path_is_drawn_step_by_step_to_its_end():
    points = np.array([[0.0, 0.0], [0.5, 0.2], [1.0, 0.1]])
    figure = posterior_panels([panel(paths=[Path("steps", points)]), panel(paths=[Path("steps", points + 1)])])
    for axes, shift in zip(posteriors(figure), (0, 1), strict=True):
        way, end = axes.lines
        np.testing.assert_array_equal(way.get_xydata(), points + shift)
        np.testing.assert_array_equal(end.get_xydata(), points[-1:] + shift)
    assert [text.get_text() for text in figure.legends[0].get_texts()][1:] == ["steps"]


def test_panels_fill_rows():
    figure = posterior_panels([panel(str(i)) for i in range(5)], columns=3)
    tops = [round(axes.get_subplotspec().rowspan.start) for axes in posteriors(figure)]
    assert tops == [0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="at least one panel"):
        posterior_panels([])
