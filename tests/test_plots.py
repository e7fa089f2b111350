"""Figures: what is on them, and that labels, ranges and gaps are honest."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from gpvae_jax.plots import (
    images_grid,
    latent_scatter,
    learning_curves,
    likelihood_against_time,
    method_styles,
    prior_samples,
    reconstructions,
)
from gpvae_jax.report import CompareRow, Estimate, png

METHODS = ("vae", "gpvae", "savi", "mixture", "iaf")
LEVELS = {"vae": -24.6, "gpvae": -24.1, "savi": -22.9, "mixture": -23.3, "iaf": -23.8}


def history(level, epochs=40):
    """A run whose best epoch is the thirtieth, after a poor start."""
    epoch = np.arange(1, epochs + 1)
    validation = level - 500.0 * np.exp(-epoch) - 0.01 * np.abs(epoch - 30)
    return [
        {"epoch": int(e), "validation_elbo": float(v), "elbo": float(v) + 0.5}
        for e, v in zip(epoch, validation, strict=True)
    ]


def row(name, bound, time, error=0.2):
    bounds = {100: Estimate(bound - 0.5, error), 1000: Estimate(bound, error)}
    return CompareRow(name, 1000, 10, 5.0, 250, Estimate(bound - 2.0, error), bounds, 40.0, time)


def label_boxes(figure):
    """The boxes, in pixels, of the names written beside the points."""
    figure.draw_without_rendering()
    return {text.get_text(): Text.get_window_extent(text) for text in figure.axes[0].texts}


def test_matplotlib_is_imported_with_the_first_figure_and_pyplot_never():
    code = """
import sys
import gpvae_jax.plots, gpvae_jax.report
assert "matplotlib" not in sys.modules
gpvae_jax.plots.learning_curves({"vae": [{"epoch": 1, "validation_elbo": -1.0}]})
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_styles_differ_and_follow_the_order_of_the_names():
    styles = method_styles([f"m{i}" for i in range(20)])
    assert len(set(styles.values())) == 20
    assert len({style.color for style in list(styles.values())[:7]}) == 7
    assert method_styles(["vae", "gpvae"])["gpvae"] == method_styles(["vae", "gpvae", "savi"])["gpvae"]


# ---- learning curves


def test_learning_curves_show_every_method_and_mark_its_best_epoch():
    figure = learning_curves({name: history(level) for name, level in LEVELS.items()})
    axes = figure.axes[0]
    assert axes.get_xlabel() == "epoch"
    assert axes.get_ylabel() == "ELBO (nats per example)"
    assert len(axes.lines) == 3 * len(METHODS)  # validation, training, best epoch
    best = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert [line.get_xdata()[0] for line in best] == [30] * len(METHODS)
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels == ["validation", "training", "best epoch", *METHODS]


def test_training_curves_are_thinner_and_dashed():
    validation, training = sorted(
        (line for line in learning_curves({"vae": history(-20.0)}).axes[0].lines if line.get_marker() == "None"),
        key=lambda line: -line.get_linewidth(),
    )
    assert validation.get_linewidth() > training.get_linewidth()
    assert validation.get_linestyle() == "-"
    assert training.get_linestyle() == "--"


def test_first_epochs_do_not_flatten_the_rest_and_the_cut_is_told():
    axes = learning_curves({"vae": history(-20.0)}).axes[0]
    low, high = axes.get_ylim()
    values = np.array([[h["validation_elbo"], h["elbo"]] for h in history(-20.0)])
    assert high > values.max()
    assert high - low < 3.0 < np.ptp(values)
    hidden = int(np.sum(values < low))
    assert 0 < hidden < values.size / 4
    assert axes.texts[0].get_text() == f"↓ {hidden} of {values.size} points lie below"


def test_a_poor_method_is_not_cut_off():
    axes = learning_curves({"good": history(-20.0), "poor": history(-90.0)}).axes[0]
    assert axes.get_ylim()[0] < -90.1


def test_seeds_are_lines_of_one_colour_and_a_stopped_one_leaves_a_gap():
    rows = [{"epoch": e, "validation_elbo": [-20.0 - 1 / e, None if e > 3 else -21.0 - 1 / e]} for e in range(1, 8)]
    figure = learning_curves({"vae": rows})
    lines = figure.axes[0].lines
    assert len(lines) == 4
    assert len({to_hex(line.get_color()) for line in lines}) == 1
    assert [line.get_xdata()[0] for line in lines if line.get_linestyle() == "None"] == [7, 3]
    assert "training" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_history_of_nan_is_named_and_one_epoch_is_drawn():
    rows = [{"epoch": e, "validation_elbo": float("nan"), "elbo": float("nan")} for e in (1, 2)]
    figure = learning_curves({"vae": history(-20.0, 1), "broken": rows})
    assert [text.get_text() for text in figure.legends[1].get_texts()] == ["vae", "broken (no finite value)"]
    assert np.isfinite(figure.axes[0].get_ylim()).all()
    assert png(figure)


@pytest.mark.parametrize("histories", [{}, {"vae": []}, {"vae": [{"epoch": 1}]}])
def test_learning_curves_refuse_what_is_no_history(histories):
    with pytest.raises(ValueError, match=r"at least one (method|epoch)"):
        learning_curves(histories)


def test_a_method_without_a_style_is_named():
    with pytest.raises(ValueError, match="lack savi"):
        learning_curves({"savi": history(-20.0)}, method_styles(["vae"]))


# ---- likelihood against time


def test_one_labelled_point_per_method_with_its_colour_and_error_bar():
    rows = [row(name, LEVELS[name], 1.0 + 3 * i) for i, name in enumerate(METHODS)]
    figure = likelihood_against_time(rows, method_styles(METHODS))
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert "(ms" in axes.get_xlabel()
    assert "128" in axes.get_xlabel()
    assert axes.get_ylabel() == "IWAE-1000 (nats per example)"
    assert [text.get_text() for text in axes.texts] == list(METHODS)
    assert len(axes.containers) == len(METHODS)
    for container, method in zip(axes.containers, rows, strict=True):
        point, _, (bar,) = container
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (method.latency_ms, LEVELS[method.name])
        assert to_hex(point.get_color()) == method_styles(METHODS)[method.name].color.lower()
        np.testing.assert_allclose(bar.get_segments()[0][:, 1], LEVELS[method.name] + np.array([-0.2, 0.2]))


@pytest.mark.parametrize(
    "rows",
    [
        [row(f"method {i}", -20.0, 1.5) for i in range(6)],  # all in one place
        [row(f"quite_long_method_{i}", -20.0 + 0.05 * i, 1.2 + 0.05 * i) for i in range(14)],
        [row("vae", -20.0, 3.0)],
    ],
    ids=["same point", "crowd", "one"],
)
def test_labels_overlap_neither_each_other_nor_points_and_stay_inside(rows):
    figure = likelihood_against_time(rows)
    boxes = list(label_boxes(figure).values())
    axes = figure.axes[0]
    frame = axes.get_window_extent()
    points = axes.transData.transform([(r.latency_ms, r.iwae[1000].mean) for r in rows])
    assert len(boxes) == len(rows)
    for index, box in enumerate(boxes):
        assert not any(box.padded(-0.5).overlaps(other) for other in boxes[index + 1 :])
        assert not any(box.contains(*point) for point in points)
        assert frame.padded(0.5).containsx(box.x0)
        assert frame.padded(0.5).containsx(box.x1)
        assert frame.padded(0.5).containsy(box.y0)
        assert frame.padded(0.5).containsy(box.y1)


def test_what_cannot_be_drawn_is_named_with_the_reason():
    nan = float("nan")
    rows = [row("vae", -20.0, 1.0), row("svi", -19.0, None), row("broken", nan, 2.0, nan), row("gone", -np.inf, 2.0)]
    rows.insert(1, row("iaf", -19.0, None))
    figure = likelihood_against_time(rows)
    assert [text.get_text() for text in figure.axes[0].texts] == ["vae"]
    note = figure.get_supxlabel()
    assert "iaf, svi (time not measured); " in note
    assert "broken (its bound is NaN)" in note
    assert "gone (its bound is minus infinite)" in note
    assert "vae" not in note
    assert png(likelihood_against_time(rows[1:3]))  # nothing to draw at all


def test_the_time_axis_has_ticks_even_when_all_times_are_alike():
    axes = likelihood_against_time([row("vae", -20.0, 1.3), row("gpvae", -20.5, 1.31)]).axes[0]
    low, high = axes.get_xlim()
    assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 2


# ---- examples


def mosaic(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (28, 20), (64, 64, 3)])
def test_images_are_placed_row_by_row(shape):
    levels = np.linspace(0.0, 0.9, 7)  # the paper is white, so no image is
    images = levels.reshape(-1, *[1] * len(shape)) * np.ones(shape)
    canvas = mosaic(images_grid(images, 4))
    height, width = canvas.shape[0] / 2, canvas.shape[1] / 4
    middles = [canvas[int((0.5 + i // 4) * height), int((0.5 + i % 4) * width), 0] for i in range(8)]
    np.testing.assert_allclose(middles, [*levels, 1.0])


def test_values_are_clipped_to_the_range_and_nan_is_red():
    image = np.array([[-5.0, 0.0], [10.0, np.nan]])
    canvas = mosaic(images_grid(image[None], 1, value_range=(-1.0, 1.0)))
    quarter = canvas.shape[0] // 4
    np.testing.assert_allclose(canvas[quarter, quarter], 0.0)
    np.testing.assert_allclose(canvas[quarter, 3 * quarter], 0.5)
    np.testing.assert_allclose(canvas[3 * quarter, quarter], 1.0)
    red, green, blue = canvas[3 * quarter, 3 * quarter]
    assert red > 0.5 > max(green, blue)


def test_reconstructions_have_a_labelled_row_each_under_the_inputs():
    x = np.full((10, 8, 8), 0.2)
    figure = reconstructions(x, {name: x + 0.1 * (1 + i) for i, name in enumerate(METHODS)})
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["input", *METHODS]
    canvas = mosaic(figure)
    scale = canvas.shape[0] / axes.get_ylim()[0]
    middles = [canvas[int(tick * scale), canvas.shape[1] // 20, 0] for tick in axes.get_yticks()]
    np.testing.assert_allclose(middles, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


@pytest.mark.parametrize("name", ["mixture", "a rather long name", "$x$"])
def test_row_labels_are_inside_the_figure(name):
    figure = reconstructions(np.zeros((12, 8, 8)), {name: np.zeros((12, 8, 8))})
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(box.width > 10 and box.x0 >= 0 for box in boxes)


def test_prior_samples_wrap_beside_their_method():
    figure = prior_samples({name: np.zeros((24, 8, 8)) for name in METHODS}, columns=12)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(METHODS)
    assert len(np.unique(np.diff(axes.get_yticks()).round(6))) == 1
    assert axes.get_yticks()[1] - axes.get_yticks()[0] > 16  # two rows of 8 pixels


def test_vectors_are_lines_on_one_scale():
    x = np.array([[0.0, 1.0, 2.0, 3.0], [3.0, 3.0, 3.0, np.nan]])
    figure = reconstructions(x, {"vae": x})
    axes = figure.axes[0]
    frames, lines = axes.collections
    assert len(frames.get_paths()) == 4
    first, second = lines.get_segments()[:2]
    assert np.all(np.diff(first[:, 1]) < 0)  # down the page is up the scale
    assert second[0, 1] == first[3, 1]
    assert axes.get_xlabel() == "features 1 to 4, from 0 to 3 in each panel"
    assert png(figure)


@pytest.mark.parametrize("shape", [(3,), (3, 8, 8, 2), (3, 2, 8, 8, 3)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match="cannot be drawn"):
        images_grid(np.zeros(shape), 3)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Reconstructions of 'vae'"):
        reconstructions(np.zeros((3, 8, 8)), {"vae": np.zeros((2, 8, 8))})
    with pytest.raises(ValueError, match="one shape"):
        prior_samples({"vae": np.zeros((3, 8, 8)), "iaf": np.zeros((3, 9, 9))})
    with pytest.raises(ValueError, match="at least one example"):
        images_grid(np.zeros((0, 8, 8)), 3)
    with pytest.raises(ValueError, match="value_range"):
        images_grid(np.zeros((1, 8, 8)), 3, value_range=(1.0, 1.0))


# ---- latents


def test_latent_scatter_has_a_colour_and_a_legend_entry_per_label():
    z = np.random.default_rng(0).normal(size=(60, 2))
    labels = np.arange(60) % 3
    figure = latent_scatter(z, labels)
    axes = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]
    assert [len(collection.get_offsets()) for collection in axes.collections] == [20, 20, 20]
    assert "standard deviations" in axes.get_xlabel()
    assert len(latent_scatter(z).axes[0].collections[0].get_offsets()) == 60


def test_latent_scatter_refuses_other_than_two_latents():
    with pytest.raises(ValueError, match="train with 2 latents"):
        latent_scatter(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="4 labels for 5"):
        latent_scatter(np.zeros((5, 2)), np.zeros(4))
