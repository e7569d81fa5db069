"""Grids of images with text around them, as uint8 arrays [H, W, 1 or 3]: a title, labels of rows and columns, captions.

Each pixel of an image is enlarged by a whole factor. Where there is no image the paper is white.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

GAP, PAPER = 96, 255  # grey levels: between images, where it is neither paper nor ink; and around them
TEXT = 13  # pixels: the smallest font
MARGIN = 8  # pixels, around everything and beside the labels of rows
WIDEST = 96  # pixels: up to here an image is made as wide as its caption or the label of its column
LINES = 4  # of a caption that is wider than its image
MOST_CLASSES = 20  # that have columns of their own


@dataclasses.dataclass(frozen=True)
class Labels:
    """The text around a grid.

    Attributes:
      title: above all.
      rows: one a row, left of it. Fewer are repeated, as those of `pairs` are.
      columns: one a column, above it.
      captions: one an image, below it; in `pairs` one an image of the first set, below its column.
    """

    title: str
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    captions: Sequence[str] = ()


def grid(
    images: UInt8[np.ndarray, "N H W C"], labels: Labels, columns: int = 0, *, pad: int = 1, scale: int = 0
) -> UInt8[np.ndarray, "h w C"]:
    """Images in rows, `pad` pixels of grey around each, enlarged by whole pixels.

    Args:
      columns: 0 = about square, and such that the last row is full where such a number is near.
      pad: before enlarging.
      scale: 0 = the smallest that makes the longer side 512 pixels, at most 8; more where the labels need it.
    """
    n, h, w, _ = images.shape
    return _drawn(images[None], labels, min(columns or _columns(n, h / w), n), pad, scale)


def pairs(
    *sets: UInt8[np.ndarray, "N H W C"], labels: Labels, columns: int = 0, pad: int = 1, scale: int = 0
) -> UInt8[np.ndarray, "h w C"]:
    """A grid with each row of the first set over the same row of each other set. The arguments are as in `grid`.

    0 columns are as many as make it about square, and 8 at least.
    """
    n, h, w, _ = sets[0].shape
    columns = columns or max(8, round(math.sqrt(n * len(sets) * h / w)))
    return _drawn(np.stack(sets), labels, min(columns, n), pad, scale)


def samples(
    images: UInt8[np.ndarray, "N H W C"],
    label: Int[np.ndarray, " N"] | None,
    names: Sequence[str],
    title: str,
    captions: Sequence[str] = (),
) -> UInt8[np.ndarray, "h w C"]:
    """A grid of samples, where the model takes every class in turn with a column a class.

    Args:
      label: the classes that the model was asked for; None = it knows none.
      names: of the classes; a label beyond them is shown as its number.
      captions: what the samples were asked to show, where they have no classes.
    """
    if label is None:
        return grid(images, Labels(title, captions=captions))
    n, h, w, _ = images.shape
    kinds = list(dict.fromkeys(label.tolist()))
    shown = [class_name(kind, names) for kind in kinds]
    if len(kinds) == 1:
        return grid(images, Labels(f"{title} of class {shown[0]}"))
    in_turn = np.array_equal(label, np.resize(kinds, n))
    if not in_turn or len(kinds) > MOST_CLASSES:
        return grid(images, Labels(title))
    turns = min(max(1, round(math.sqrt(n * h / w) / len(kinds))), n // len(kinds))  # in a row
    return grid(images, Labels(f"{title}, one class per column", columns=shown * turns), len(kinds) * turns)


def beside(
    pictures: Sequence[UInt8[np.ndarray, "_ _ _"] | None], titles: Sequence[str], height: int = 512
) -> UInt8[np.ndarray, "H W 3"]:
    """Pictures that fill squares of this height, in rows of at most 4, each below its title. None = white paper."""
    from PIL import Image, ImageDraw

    size = height // 24
    blank = np.full((height, height, 1), PAPER, np.uint8)
    shown = [Image.fromarray(as_rgb(blank if picture is None else picture)) for picture in pictures]
    scales = [height / max(one.size) for one in shown]
    shown = [
        one.resize([max(1, round(side * scale)) for side in one.size]) for one, scale in zip(shown, scales, strict=True)
    ]
    columns = math.ceil(len(shown) / math.ceil(len(shown) / 4))
    wide, high = height + 2 * MARGIN, height + _line(size) + 2 * MARGIN
    canvas = Image.new("RGB", (columns * wide, math.ceil(len(shown) / columns) * high), (PAPER,) * 3)
    draw = ImageDraw.Draw(canvas)
    for i, (one, title) in enumerate(zip(shown, titles, strict=True)):
        x, y = i % columns * wide, i // columns * high
        text = _cut(title, _font(size), wide - 2 * MARGIN)
        draw.text((x + wide / 2, y + MARGIN + _line(size) / 2), text, fill=(0, 0, 0), font=_font(size), anchor="mm")
        canvas.paste(one, (x + (wide - one.width) // 2, y + MARGIN + _line(size)))
    return np.asarray(canvas).copy()


def as_rgb(image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W 3"]:
    """A grey (C = 1) or RGB image with three channels."""
    return np.broadcast_to(image, (*image.shape[:2], 3)).copy()


def class_name(label: int, names: Sequence[str]) -> str:
    """The name of a class, or its number where it has none."""
    return names[label] if label < len(names) else str(label)


def enlarge(image: UInt8[np.ndarray, "H W C"], scale: int) -> UInt8[np.ndarray, "h w C"]:
    """Each pixel `scale` times as wide and high."""
    return image.repeat(scale, 0).repeat(scale, 1)


def _columns(n: int, ratio: float) -> int:
    """Of n images in a grid that is about square: the nearest divisor of n, if one is within a factor of 1.6."""
    square = math.sqrt(n * ratio)
    full = [k for k in range(1, n + 1) if n % k == 0 and 1 / 1.6 <= k / square <= 1.6]
    return min(full, key=lambda k: (round(abs(math.log(k / square)), 6), -k), default=math.ceil(square))


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where the images of sets are, in pixels: each set a row in a group of rows, groups one below the other."""

    sets: int
    n: int
    columns: int
    cell: tuple[int, int]  # height and width of an image
    edge: int  # of grey around it
    space: int  # between groups, below the grey edge of the one and above that of the other

    @property
    def size(self) -> tuple[int, int]:
        height = self.top(self.sets * math.ceil(self.n / self.columns) - 1) + self.cell[0] + 2 * self.edge
        return height, self.left(self.columns - 1) + self.cell[1] + 2 * self.edge

    def top(self, row: int) -> int:
        """Of a row's grey edge."""
        return row * (self.cell[0] + self.edge) + row // self.sets * (self.edge + self.space)

    def left(self, column: int) -> int:
        return column * (self.cell[1] + self.edge)

    def places(self) -> list[tuple[int, int]]:
        """The row and column of each image, those of a set after those of the set before."""
        return [(i // self.columns * self.sets + s, i % self.columns) for s in range(self.sets) for i in range(self.n)]

    def paint(self, images: UInt8[np.ndarray, "M H W C"], scale: int) -> UInt8[np.ndarray, "h w C"]:
        found = np.full((*self.size, images.shape[-1]), PAPER, np.uint8)
        for image, (row, column) in zip(images, self.places(), strict=True):
            y, x = self.top(row), self.left(column)
            found[y : y + self.cell[0] + 2 * self.edge, x : x + self.cell[1] + 2 * self.edge] = GAP
            y, x = y + self.edge, x + self.edge
            found[y : y + self.cell[0], x : x + self.cell[1]] = enlarge(image, scale)
        return found


def _drawn(sets: UInt8[np.ndarray, "S N H W C"], labels: Labels, columns: int, pad: int, scale: int) -> Any:
    count, n, h, w, channels = sets.shape
    scale = scale or _scale((count * math.ceil(n / columns), columns), (h, w), pad, labels)
    cell, edge = (h * scale, w * scale), pad * scale
    between = edge if count > 1 else -edge  # images that stand alone share the edge
    plain = _Layout(count, n, columns, cell, edge, between)
    size = _font_size(labels, cell[1], max(plain.size))
    captions = [_wrapped(text, _font(size), cell[1]) for text in labels.captions]
    layout = dataclasses.replace(plain, space=max(map(len, captions)) * _line(size)) if captions else plain
    tiles = layout.paint(sets.reshape(-1, h, w, channels), scale)
    return _framed(tiles, layout, labels, captions, size)


def _framed(
    tiles: UInt8[np.ndarray, "h w C"], layout: _Layout, labels: Labels, captions: Sequence[Sequence[str]], size: int
) -> Any:
    """The images with their text around them, captions by their lines; as they are where there is none."""
    from PIL import Image, ImageDraw

    if not any((labels.title, labels.rows, labels.columns, labels.captions)):
        return tiles
    font, line = _font(size), _line(size)
    (height, width), (h, w) = tiles.shape[:2], layout.cell
    left = MARGIN + (math.ceil(max(map(font.getlength, labels.rows))) + MARGIN if labels.rows else 0)
    top = MARGIN + line * bool(labels.title) + line * bool(labels.columns)
    half = font.getlength(labels.title) / 2
    middle = max(left + width / 2, MARGIN + half)  # of the title
    whole = math.ceil(max(left + width, middle + half)) + MARGIN
    bottom = (layout.space if captions else 0) + MARGIN
    canvas = np.full((top + height + bottom, whole, tiles.shape[2]), PAPER, np.uint8)
    canvas[top : top + height, left : left + width] = tiles
    image = Image.fromarray(canvas[..., 0] if canvas.shape[2] == 1 else canvas)
    draw = ImageDraw.Draw(image)

    def write(y: float, x: float, text: str, anchor: str) -> None:
        draw.text((x, y), text, fill=0 if image.mode == "L" else (0, 0, 0), font=font, anchor=anchor)

    write(MARGIN + line / 2, middle, labels.title, "mm")
    for row in range(layout.places()[-1][0] + 1) if labels.rows else ():
        y = top + layout.top(row) + layout.edge + h / 2
        write(y, float(left - MARGIN), labels.rows[row % len(labels.rows)], "rm")
    middles = [left + layout.left(i) + layout.edge + w / 2 for i in range(layout.columns)]
    for text, x in zip(labels.columns, middles, strict=True) if labels.columns else ():
        write(top - line / 2, x, _cut(text, font, w), "mm")
    for i, texts in enumerate(captions):
        below = layout.top((i // layout.columns + 1) * layout.sets - 1) + h + 2 * layout.edge
        for k, text in enumerate(texts):
            write(top + below + (k + 0.5) * line, middles[i % layout.columns], text, "mm")
    return np.asarray(image).reshape(canvas.shape).copy()


def _scale(shape: tuple[int, int], cell: tuple[int, int], pad: int, labels: Labels) -> int:
    """How much images [h, w] = `cell` are enlarged in a grid of `shape` rows and columns."""
    side = max(count * (length + pad) + pad for count, length in zip(shape, cell, strict=True))
    texts = [*labels.columns, *labels.captions]
    high = _line(TEXT) if labels.rows else 0
    wide = min(WIDEST, _widest(texts, TEXT)) if texts else 0
    least = max(math.ceil(high / cell[0]), math.ceil(wide / cell[1]))
    return max(min(8, math.ceil(512 / side)), least)


def _font_size(labels: Labels, width: int, side: int) -> int:
    """Larger in a larger picture, as long as the text of columns fits their width."""
    size, texts = max(TEXT, side // 36), [*labels.columns, *labels.captions]
    while texts and size > TEXT and _widest(texts, size) > width:
        size -= 1
    return size


def _widest(texts: Sequence[str], size: int) -> int:
    return math.ceil(max(map(_font(size).getlength, texts)))


def _cut(text: str, font: Any, width: int) -> str:
    """As much of a text as fits."""
    if font.getlength(text) <= width:
        return text
    return next((part for i in range(len(text), 0, -1) if font.getlength(part := f"{text[:i]}\u2026") <= width), "")


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """The lines of a text, `LINES` at most; what does not fit is cut."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and (font.getlength(longer) <= width or len(lines) == LINES):
            lines[-1] = longer
        else:
            lines.append(word)
    return [_cut(line, font, width) for line in lines]


def _line(size: int) -> int:
    """The height of a line."""
    return round(1.5 * size)


@functools.cache
def _font(size: int) -> Any:
    """DejaVu Sans, which comes with Matplotlib and has the letters of most languages."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
