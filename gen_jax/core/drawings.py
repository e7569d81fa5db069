"""Drawings of coloured shapes: a scene as a caption, as a picture, and read back from a picture.

A scene is a group of equal shapes at a place ("two red circles on the left"), or two shapes in a relation ("a blue
square above a green triangle"). Pictures have a black background and colours that are corners of the RGB cube.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

COLOURS = ("red", "green", "yellow", "blue", "magenta", "cyan", "white")  # bit i of 1 + index: channel i is 255
SHAPES = ("circle", "square", "triangle")
NUMBERS = ("a", "two", "three")
PLACES = ("on the left", "on the right", "at the top", "at the bottom")
RELATIONS = ("left of", "above")
SMALLEST = 16  # pixels of a side
FINE = 16  # subpixels of a side, for coverage
LIT = 127  # a pixel whose brightest channel is above belongs to a shape
SOLID, ROUND = 0.9, 0.7  # of its box a square covers more, a triangle less


class Group(NamedTuple):
    """Equal shapes."""

    number: int
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{NUMBERS[self.number - 1]} {self.colour} {self.shape}{'s' * (self.number > 1)}"


class Scene(NamedTuple):
    """A group at one of PLACES, or two shapes in one of RELATIONS."""

    groups: tuple[Group, ...]
    where: str

    @property
    def caption(self) -> str:
        first, *others = map(str, self.groups)
        return " ".join([first, self.where, *others])

    @property
    def upright(self) -> bool:
        """Whether `where` is about top and bottom."""
        return self.where in ("at the top", "at the bottom", "above")


@functools.cache
def scenes() -> dict[str, Scene]:
    """Caption -> scene: all of them. No two describe the same pictures; colours in a relation differ."""
    groups = [Group(*parts) for parts in itertools.product((1, 2, 3), COLOURS, SHAPES)]
    alone = [Scene((group,), place) for group in groups for place in PLACES]
    ones = [group for group in groups if group.number == 1]
    related = [Scene((a, b), relation) for a in ones for b in ones for relation in RELATIONS if a.colour != b.colour]
    return {scene.caption: scene for scene in alone + related}


@functools.cache
def words() -> tuple[str, ...]:
    """All words of captions, in the order of the alphabet."""
    return tuple(sorted({word for caption in scenes() for word in caption.split()}))


# Drawing -------------------------------------------------------------------------------------------------------------


@functools.cache
def coverage(shape: str, side: int) -> Float[np.ndarray, "side side"]:
    """The share of each pixel that the shape covers, in a box of `side` pixels."""
    axis = (np.arange(side * FINE) + 0.5) / (side * FINE)
    y, x = axis[:, None], axis[None]
    inside = {
        "circle": (y - 0.5) ** 2 + (x - 0.5) ** 2 <= 0.25,
        "square": np.ones((side * FINE, side * FINE), bool),
        "triangle": np.abs(x - 0.5) <= y / 2,
    }[shape]
    return inside.reshape(side, FINE, side, FINE).mean((1, 3))


def draw(scene: Scene, size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "size size 3"]:
    """A picture of the scene: shapes of a quarter of the side at random places that fit it, at least a gap apart."""
    side, gap = size // 4, size // 12
    n = sum(group.number for group in scene.groups)
    slack = size - side - (n - 1) * (side + gap)
    along = np.sort(rng.integers(0, slack + 1, n)) + np.arange(n) * (side + gap)  # the axis without overlaps
    if scene.where in PLACES:
        across = rng.integers(0, size // 2 - side + 1, n)
        across += (size - size // 2) * (scene.where in ("on the right", "at the bottom"))
    else:  # less apart than along the axis of the relation
        first = rng.integers(0, size - side + 1)
        across = np.array([first, np.clip(first + rng.integers(-side, side + 1), 0, size - side)])
    ys, xs = (across, along) if scene.upright == (scene.where in PLACES) else (along, across)
    picture = np.zeros((size, size, 3))
    shapes = [group for group in scene.groups for _ in range(group.number)]
    for group, y, x in zip(shapes, ys, xs, strict=True):
        channels = (1 + COLOURS.index(group.colour)) >> np.arange(3) & 1
        picture[y : y + side, x : x + side] += 255 * coverage(group.shape, side)[..., None] * channels
    return np.rint(picture).astype(np.uint8)


# Reading -------------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A shape in a picture: `y`, `x` are the middle of its box, in sides of the picture."""

    colour: str
    shape: str
    y: float
    x: float


def read(images: UInt8[np.ndarray, "N H W 3"]) -> list[list[Seen]]:
    """The shapes in each picture: regions of equal colour, but for specks far smaller than a shape."""
    bright = images.max(-1, keepdims=True)
    colour = ((images > bright / 2) & (bright > LIT)) @ (1, 2, 4)  # 0 = background
    return [list(_found(*one)) for one in zip(colour, _numbered(colour), bright[..., 0] / 255, strict=True)]


def _numbered(colour: Int[np.ndarray, "N H W"]) -> Int[np.ndarray, "N H W"]:
    """A number for each pixel of a colour, equal in a region of equal colour whose pixels share edges."""
    found = np.arange(colour[0].size).reshape(colour[0].shape) + 0 * colour
    pairs = [(np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])]
    joined = [(colour[a] == colour[b]) & (colour[a] > 0) for a, b in pairs]
    before = None
    while before is None or (before != found).any():
        before = found.copy()
        for (a, b), same in zip(pairs, joined, strict=True):
            found[a] = np.maximum(found[a], same * found[b])
            found[b] = np.maximum(found[b], same * found[a])
    return found


def _found(
    colour: Int[np.ndarray, "H W"], number: Int[np.ndarray, "H W"], light: Float[np.ndarray, "H W"]
) -> Iterator[Seen]:
    """Each region that is large enough."""
    height, width = colour.shape
    for one, count in zip(*np.unique(number[colour > 0], return_counts=True), strict=True):
        if count >= height * width / 128:
            y, x = np.nonzero(number == one)
            (top, bottom), (left, right) = ((int(part.min()), int(part.max()) + 1) for part in (y, x))
            filled = light[top:bottom, left:right].mean()
            shape = "square" if filled > SOLID else "circle" if filled > ROUND else "triangle"
            name = COLOURS[colour[y[0], x[0]] - 1]
            yield Seen(name, shape, (top + bottom) / 2 / height, (left + right) / 2 / width)


def judge(scene: Scene, seen: Sequence[Seen]) -> dict[str, bool]:
    """What of a picture is as the scene says.

    colour: the colours are those asked for. count: as many shapes in all. position: all lie in the half, or the shapes
    of one colour as a whole are more left of (above) those of the other than above (left of) them. shape: each colour
    has the shapes asked for.
    """
    asked = {(group.colour, group.shape) for group in scene.groups}
    return {
        "colour": {one.colour for one in seen} == {colour for colour, _ in asked},
        "count": len(seen) == sum(group.number for group in scene.groups),
        "position": _stands(scene, seen),
        "shape": {(one.colour, one.shape) for one in seen} == asked,
    }


def _stands(scene: Scene, seen: Sequence[Seen]) -> bool:
    if scene.where in PLACES:
        sign = 1 if scene.where in ("on the right", "at the bottom") else -1
        places = [one.y if scene.upright else one.x for one in seen]
        return bool(places) and all(sign * (place - 0.5) > 0 for place in places)
    sides = [[(one.y, one.x) for one in seen if one.colour == group.colour] for group in scene.groups]
    if not all(sides):
        return False
    down, right = np.mean(sides[1], axis=0) - np.mean(sides[0], axis=0)
    return bool(down > abs(right) if scene.upright else right > abs(down))
