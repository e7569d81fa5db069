"""Scenes of coloured shapes: what is drawn is read back, and what is not asked for is noticed."""

import numpy as np
import pytest

from gen_jax.core import drawings
from gen_jax.core.drawings import Group, Scene, draw, judge, read, scenes

RIGHT = dict(colour=True, count=True, position=True, shape=True)
OPPOSITE = dict(zip(drawings.PLACES, ("on the right", "on the left", "at the bottom", "at the top"), strict=True))


def pictures(found, size=24, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([draw(scene, size, rng) for scene in found])


def some(n=150):
    return [list(scenes().values())[i] for i in np.random.default_rng(1).permutation(len(scenes()))[:n]]


def test_captions_are_english_and_name_each_scene_once():
    assert {"two red circles on the left", "a blue square above a green triangle"} <= set(scenes())
    assert len(scenes()) == 3 * 7 * 3 * 4 + 7 * 3 * 6 * 3 * 2
    assert all(scene.caption == caption for caption, scene in scenes().items())
    assert drawings.words()[0] == "a" and len(drawings.words()) == 25


@pytest.mark.parametrize(
    "size", [pytest.param(16, marks=pytest.mark.slow), 24, pytest.param(32, marks=pytest.mark.slow)]
)
def test_each_scene_is_read_back_from_its_picture(size):
    for scene, seen in zip(scenes().values(), read(pictures(scenes().values(), size)), strict=True):
        assert judge(scene, seen) == RIGHT, scene.caption
        first, last = scene.groups[0], scene.groups[-1]
        assert sorted((one.colour, one.shape) for one in seen) == sorted(
            [(first.colour, first.shape)] * first.number + [(last.colour, last.shape)] * (len(scene.groups) - 1)
        )


def test_a_reader_is_not_misled_by_noise_and_specks():
    found, rng = some(), np.random.default_rng(2)
    image = pictures(found)
    image[:, 0, 0], image[:, -1, -1] = 255, (255, 0, 0)
    noisy = np.clip(image + rng.normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    for scene, seen in zip(found, read(noisy), strict=True):
        judged = judge(scene, seen)
        assert all(judged[name] for name in ("colour", "count", "position")), scene.caption


def test_each_mistake_is_noticed_by_its_name():
    found = some()
    for scene, seen in zip(found, read(pictures(found)), strict=True):
        first, *others = scene.groups
        new = next(colour for colour in drawings.COLOURS if colour not in [group.colour for group in scene.groups])
        shape = next(one for one in drawings.SHAPES if one != first.shape)
        wrong = judge(Scene((first._replace(colour=new), *others), scene.where), seen)
        assert not wrong["colour"] and wrong["count"]
        assert judge(Scene((first._replace(shape=shape), *others), scene.where), seen) == RIGHT | dict(shape=False)
        assert judge(Scene((first._replace(number=first.number % 3 + 1), *others), scene.where), seen) == RIGHT | dict(
            count=False
        )
        moved = Scene(scene.groups, OPPOSITE[scene.where]) if not others else Scene(scene.groups[::-1], scene.where)
        assert judge(moved, seen) == RIGHT | dict(position=False)
        assert not any(judge(scene, []).values())


def test_places_are_halves_and_relations_are_the_larger_distance():
    def at(y, x, colour="red"):
        return drawings.Seen(colour, "circle", y, x)

    group, other = Group(2, "red", "circle"), Group(1, "blue", "circle")
    place = Scene((group,), "at the bottom")
    assert judge(place, [at(0.6, 0.1), at(0.9, 0.9)]) == RIGHT
    assert not judge(place, [at(0.6, 0.1), at(0.4, 0.9)])["position"]
    above = Scene((group._replace(number=1), other), "above")
    assert judge(above, [at(0.2, 0.5), at(0.6, 0.2, "blue")]) == RIGHT
    assert not judge(above, [at(0.2, 0.5), at(0.4, 0.2, "blue")])["position"]  # rather to the right
    assert not judge(above, [at(0.2, 0.5)])["position"]


def test_shapes_cover_what_geometry_says():
    for side in (4, 6, 8):
        areas = [drawings.coverage(shape, side).sum() / side**2 for shape in drawings.SHAPES]
        np.testing.assert_allclose(areas, [np.pi / 4, 1, 0.5], atol=0.01)
    image = draw(Scene((Group(1, "yellow", "square"),), "at the top"), 24, np.random.default_rng(0))
    assert (np.unique(image.reshape(-1, 3), axis=0) == [(0, 0, 0), (255, 255, 0)]).all()
    assert (image.max(-1) > 0).sum() == 36
