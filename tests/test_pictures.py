"""Pixels of grids, and that plots show what they are given."""

import io

import numpy as np
import pytest
from PIL import Image

from gen_jax.runs import plots


def images(n, h=2, w=3, c=1):
    return (np.arange(n, dtype=np.uint8)[:, None, None, None] + 1) * np.ones((1, h, w, c), np.uint8)


def test_grid_puts_each_image_in_its_place():
    found = plots.grid(images(5), 3, pad=1, scale=1)
    assert found.shape == (2 * 3 + 1, 3 * 4 + 1, 1)
    for i in range(5):
        y, x = 1 + 3 * (i // 3), 1 + 4 * (i % 3)
        assert (found[y : y + 2, x : x + 3] == i + 1).all()
    found[4:6, 9:12] = plots.GAP
    assert (found == plots.GAP).sum() == found.size - 5 * 6


def test_grid_scales_by_whole_pixels_to_a_size_that_can_be_seen():
    x = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    once, found = plots.grid(x, scale=1), plots.grid(x)
    scale = found.shape[0] // once.shape[0]
    assert max(found.shape[:2]) >= 512 and (found[::scale, ::scale] == once).all()
    assert (found[scale - 1 :: scale, scale - 1 :: scale] == once).all()
    assert plots.grid(images(1, 600, 600)).shape == (602, 602, 1)
    assert plots.grid(images(1)).shape == (8 * 4, 8 * 5, 1)


def test_a_grid_has_no_holes_where_a_near_number_of_columns_leaves_none():
    cells = [plots.grid(images(n, 2, 2), pad=1, scale=1) for n in (10, 12, 60, 64, 7)]
    assert [(h // 3, w // 3) for h, w, _ in (cell.shape for cell in cells)] == [(2, 5), (3, 4), (6, 10), (8, 8), (3, 3)]


def test_captions_stand_below_their_images():
    x = images(2, 8, 8)
    found = plots.captioned(x, ["3", "8"])
    assert found.shape == (48 + plots.CAPTION + 4, 2 * 50 + 2, 3)
    for i in range(2):
        column = found[2:, 2 + 50 * i : 50 + 50 * i]
        assert (column[:48] == i + 1).all() and column[48 : 48 + plots.CAPTION].min() < 128
    one, other = (plots.captioned(x, ["3", name])[50:] for name in "89")
    assert (one[:, :50] == other[:, :50]).all() and (one != other).any()


def test_pairs_stand_over_each_other():
    above, below = images(3), images(3) + 100
    found = plots.pairs(above, below, columns=2)
    scale = found.shape[1] // (2 * 4 + 1)
    seen = found[::scale, ::scale, 0][1::3, 1::4][:4]
    gap = plots.GAP
    assert seen[:, :2].tolist() == [[1, 2], [101, 102], [3, gap], [103, gap]]


def test_scatter_colours_by_class_and_names_them():
    points = np.random.default_rng(0).normal(size=(40, 2))
    plain = plots.scatter(points, title="latents")
    coloured = plots.scatter(points, np.arange(40) % 3, ("a", "b"), title="latents")
    assert plain.dtype == np.uint8 and plain.shape[2] == 3 and plain.shape == coloured.shape

    def hues(image):
        strong = image.reshape(-1, 3).astype(int)
        strong = strong[(strong.max(1) - strong.min(1)) > 100]
        return {tuple(c) for c, n in zip(*np.unique(strong // 32, axis=0, return_counts=True), strict=True) if n > 20}

    assert len(hues(plain)) < len(hues(coloured))


@pytest.mark.parametrize("labels", [12, 30])
def test_scatter_takes_many_classes(labels):
    assert plots.scatter(np.zeros((labels, 2)), np.arange(labels)).shape[2] == 3


def test_curves_skip_rows_without_the_tag():
    rows = [{"step": 1, "train/loss": 2.0}, {"step": 2, "test/elbo": -1.0}, {"step": 3, "train/loss": 1.0}]
    whole = plots.curves(rows, ("train/loss",))
    assert (whole == plots.curves([rows[0], rows[2]], ("train/loss",))).all()
    assert (whole != plots.curves(rows[:2], ("train/loss",))).any()
    assert plots.curves(rows, ("nothing",)).shape == whole.shape


def test_lines_can_be_logarithmic():
    series = {"a": (np.arange(1, 5), np.array([1.0, 10, 100, 1000]))}
    assert (plots.lines(series) != plots.lines(series, log=True)).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_reads_back(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 4, channels), dtype=np.uint8)
    found = np.asarray(Image.open(io.BytesIO(plots.png(image))))
    assert (found.reshape(image.shape) == image).all()


def test_no_global_state_of_matplotlib():
    import sys

    plots.lines({})
    assert "matplotlib.pyplot" not in sys.modules
