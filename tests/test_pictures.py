"""Pixels of grids, and that plots show what they are given."""

import io

import numpy as np
import pytest
from PIL import Image

from gen_jax.runs import grids, plots
from gen_jax.runs.grids import Labels

PLAIN = Labels("")


def images(n, h=2, w=3, c=1):
    return (np.arange(n, dtype=np.uint8)[:, None, None, None] + 1) * np.ones((1, h, w, c), np.uint8)


def test_grid_puts_each_image_in_its_place_and_leaves_paper_where_there_is_none():
    found = grids.grid(images(5), PLAIN, 3, pad=1, scale=1)
    assert found.shape == (2 * 3 + 1, 3 * 4 + 1, 1)
    for i in range(5):
        y, x = 1 + 3 * (i // 3), 1 + 4 * (i % 3)
        assert (found[y : y + 2, x : x + 3] == i + 1).all()
    assert (found[4:, 9:] == grids.PAPER).all()
    assert (found == grids.GAP).sum() == found.size - 5 * 6 - 3 * 4


def test_grid_scales_by_whole_pixels_to_a_size_that_can_be_seen():
    x = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    once, found = grids.grid(x, PLAIN, scale=1), grids.grid(x, PLAIN)
    scale = found.shape[0] // once.shape[0]
    assert max(found.shape[:2]) >= 512 and (found[::scale, ::scale] == once).all()
    assert (found[scale - 1 :: scale, scale - 1 :: scale] == once).all()
    assert grids.grid(images(1, 600, 600), PLAIN).shape == (602, 602, 1)
    assert grids.grid(images(1), PLAIN).shape == (8 * 4, 8 * 5, 1)


def test_a_grid_has_no_holes_where_a_near_number_of_columns_leaves_none():
    cells = [grids.grid(images(n, 2, 2), PLAIN, pad=1, scale=1) for n in (10, 12, 60, 64, 7)]
    assert [(h // 3, w // 3) for h, w, _ in (cell.shape for cell in cells)] == [(2, 5), (3, 4), (6, 10), (8, 8), (3, 3)]


def boxes(found, n):
    """Of the images of `images(n)`: top, left, bottom and right, [n, 4]; each is whole."""
    places = [np.argwhere(found[..., 0] == i + 1) for i in range(n)]
    ends = np.array([[*place.min(0), *place.max(0) + 1] for place in places])
    assert ((ends[:, 2] - ends[:, 0]) * (ends[:, 3] - ends[:, 1]) == list(map(len, places))).all()
    return ends


def centres(ends):
    return (ends[:, :2] + ends[:, 2:]) / 2


def test_labels_stand_beside_their_rows_and_above_their_columns(written):
    labels = Labels("a title", rows=("one", "two"), columns=("x", "y", "z"))
    found = grids.grid(images(5, 20, 30), labels, 3, scale=2)
    ends = boxes(found, 5)
    assert (ends[:, 2] - ends[:, 0] == 40).all() and (ends[:, 3] - ends[:, 1] == 60).all()
    for i, name in enumerate(labels.rows):
        ((x, y),) = written[name]
        assert y == centres(ends)[3 * i, 0] and x < ends[0, 1]
    for i, name in enumerate(labels.columns):
        ((x, y),) = written[name]
        assert x == centres(ends)[i, 1] and y < ends[0, 0]
    ((x, y),) = written["a title"]
    assert x == centres(ends)[1, 1] and y < written["x"][0][1]
    top, left = ends[0, :2] - 2
    inside = grids.grid(images(5, 20, 30), PLAIN, 3, scale=2)
    assert (found[top:, left:][: inside.shape[0], : inside.shape[1]] == inside).all()
    assert (found[:top] == grids.PAPER).all() and (found[:, :left] == grids.PAPER).all()


def test_captions_stand_below_their_images(written):
    found = grids.grid(images(5, 8, 8), Labels("", captions=["3", "8", "3", "1", "0"]), 3)
    ends = boxes(found, 5)
    places = [*written["3"], *written["8"], *written["1"], *written["0"]]
    for (x, y), i in zip(places, (0, 2, 1, 3, 4), strict=True):
        assert x == centres(ends)[i, 1] and y > ends[i, 2]
        assert i > 2 or y < ends[3, 0]


def test_images_are_as_wide_as_their_text_needs_and_longer_text_is_cut(written):
    long = "w" * 40
    wide, _ = (
        np.diff(boxes(grids.grid(images(2, 8, 8), Labels("", columns=(name, "b")), 2), 2)[0, 1::2])
        for name in ("automobiles!", long)
    )
    assert wide[0] >= 80 and "automobiles!" in written and long not in written
    ((cut, _),) = [(text, place) for text, place in written.items() if text.endswith("\u2026")]
    assert 5 < len(cut) < 20


def test_long_captions_are_drawn_in_lines_and_the_rest_is_cut(written):
    long = "a blue square above a green triangle"
    found = grids.grid(images(4, 8, 8), Labels("", captions=[long, "short", "w" * 40, " ".join([long] * 4)]), 2)
    ends = boxes(found, 4)
    lines = ["a blue square", "above a green", "triangle"]
    places = [written[line][0] for line in lines]
    assert {x for x, _ in places} == {centres(ends)[0, 1]} and places == sorted(places, key=lambda place: place[1])
    assert written["short"][0][1] == places[0][1] and places[0][1] > ends[0, 2] and places[-1][1] < ends[2, 0]
    texts = [text for text, places in written.items() if text for _ in places]
    assert len(texts) == 3 + 1 + 1 + 4 and sum(text.endswith("\u2026") for text in texts) == 2


def test_text_is_drawn_whole():
    """Black on white, and nothing of it lies on the images or reaches the border."""
    labels = Labels("Samples of a run", rows=("reconstruction",), columns=("A", "B"), captions=("c", "d"))
    for channels in (1, 3):
        found = grids.grid(np.full((2, 8, 8, channels), 200, np.uint8), labels)
        assert found.min() == 0 and found.shape[2] == channels
        assert (found[[0, -1]] == grids.PAPER).all() and (found[:, [0, -1]] == grids.PAPER).all()
        ink, grey = np.argwhere(found[..., 0] < 50), found[..., 0] == 200
        rows, columns = (np.flatnonzero(grey.sum(axis) > 50) for axis in (1, 0))
        assert len(rows) == 64 and len(columns) == 2 * 64
        assert ink[:, 0].min() < rows[0] and ink[:, 0].max() > rows[-1] and ink[:, 1].min() < columns[0]
        assert not (found[rows[0] : rows[-1] + 1, columns[0] :, 0] < 50).any()


def test_pairs_stand_over_each_other(written):
    labels = Labels("", rows=("above", "below"))
    found = grids.pairs(images(3), images(3) + 3, labels=labels, columns=2)
    ends = boxes(found, 6)
    middle = centres(ends)
    assert middle[0, 0] == middle[1, 0] < middle[3, 0] == middle[4, 0] < middle[2, 0] < middle[5, 0]
    assert (middle[[0, 2], 1] == middle[[3, 5], 1]).all() and middle[0, 1] == middle[2, 1] < middle[1, 1] == middle[
        4, 1
    ]
    assert [y for _, y in written["above"]] == [middle[0, 0], middle[2, 0]]
    assert [y for _, y in written["below"]] == [middle[3, 0], middle[5, 0]]
    assert (found[ends[2, 0] : ends[5, 2], ends[1, 1] : ends[1, 3]] == grids.PAPER).all()


def test_captions_of_pairs_stand_below_both(written):
    found = grids.pairs(images(3, 8, 8), images(3, 8, 8) + 3, labels=Labels("", captions=("a", "b", "c")), columns=2)
    ends = boxes(found, 6)
    for i, name in enumerate("abc"):
        ((x, y),) = written[name]
        assert x == centres(ends)[i, 1] and y > ends[i + 3, 2]
    assert written["a"][0][1] == written["b"][0][1] < ends[2, 0]


def test_pairs_are_about_square_in_8_columns_at_least():
    shapes = [grids.pairs(images(n, 8, 8), images(n, 8, 8), labels=Labels(""), scale=1).shape for n in (3, 20, 98)]
    cell, gap = 9, 2  # a cell is an image and the pixel around it; a gap lies between two rows of pairs
    rows, columns = (1, 3, 7), (3, 8, 14)
    wanted = [(2 * cell * r + gap * (r - 1), cell * c) for r, c in zip(rows, columns, strict=True)]
    assert [(h - 1, w - 1) for h, w, _ in shapes] == wanted


@pytest.mark.parametrize(("n", "classes", "columns"), [(64, 10, 10), (64, 2, 8), (4, 10, 4)])
def test_samples_of_all_classes_have_a_column_a_class(written, n, classes, columns):
    label = np.arange(n) % classes
    found = grids.samples(images(n, 8, 8), label, ("zero", "one"), "Samples")
    middle = centres(boxes(found, n))[:, 1]
    assert len(set(middle)) == columns and "Samples, one class per column" in written
    for kind in range(min(n, classes)):
        places = written[("zero", "one")[kind] if kind < 2 else str(kind)]
        assert sorted({x for x, _ in places}) == sorted(set(middle[label == kind]))


def test_samples_of_one_class_of_none_or_of_many_have_no_columns(written):
    grids.samples(images(4), np.array([3] * 4), (), "Samples")
    grids.samples(images(4), None, (), "Draws")
    grids.samples(images(30), np.arange(30), (), "Many")
    grids.samples(images(4), np.array([0, 0, 1, 1]), (), "Mixed")
    assert list(written) == ["Samples of class 3", "Draws", "Many", "Mixed"]


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
    assert plots.scatter(np.zeros((labels, 2)), np.arange(labels), title="").shape[2] == 3


def test_curves_skip_rows_without_the_tag():
    rows = [{"step": 1, "train/loss": 2.0}, {"step": 2, "test/elbo": -1.0}, {"step": 3, "train/loss": 1.0}]
    whole = plots.curves(rows, ("train/loss",), title="a")
    assert (whole == plots.curves([rows[0], rows[2]], ("train/loss",), title="a")).all()
    assert (whole != plots.curves(rows[:2], ("train/loss",), title="a")).any()
    assert plots.curves(rows, ("nothing",), title="a").shape == whole.shape


def test_lines_can_be_logarithmic():
    series = {"a": (np.arange(1, 5), np.array([1.0, 10, 100, 1000]))}
    assert (plots.lines(series, title="") != plots.lines(series, title="", log="y")).any()


def test_panels_stand_below_each_other_with_the_same_axes(figures):
    plots.panels({"real": np.zeros((2, 5)), "sample": np.ones((3, 5))}, title="series", axes=("step", "value"))
    (figure,) = figures
    assert figure.get_suptitle() == "series" and [axis.get_title("left") for axis in figure.axes] == ["real", "sample"]
    assert [len(axis.lines) for axis in figure.axes] == [2, 3]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_reads_back(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 4, channels), dtype=np.uint8)
    found = np.asarray(Image.open(io.BytesIO(plots.png(image))))
    assert (found.reshape(image.shape) == image).all()


def test_no_global_state_of_matplotlib():
    import sys

    plots.lines({}, title="")
    assert "matplotlib.pyplot" not in sys.modules
