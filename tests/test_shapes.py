"""The source of drawn shapes: captions that fit their pictures, and splits whose captions are new."""

import numpy as np
import pytest
from loading import load

from gen_jax import data
from gen_jax.core import drawings
from gen_jax.data.source import SPLITS
from gen_jax.errors import ConfigError


@pytest.fixture(scope="module")
def dataset():
    return load(source="shapes", examples=1_000, test=0.2)


def texts(dataset, split):
    return [dataset.tokenizer.decode(row) for row in dataset.arrays[split]["caption"]]


def test_pictures_show_their_captions(dataset):
    for split in SPLITS:
        captions = texts(dataset, split)
        for caption, seen in zip(captions, drawings.read(dataset.arrays[split]["image"]), strict=True):
            assert all(drawings.judge(drawings.scenes()[caption], seen).values()), caption


def test_no_caption_is_in_two_splits():
    whole = load(source="shapes", examples=4_000, test=0.2, size=16)
    found = {split: set(texts(whole, split)) for split in SPLITS}
    assert not found["train"] & found["test"] and not found["train"] & found["validation"]
    assert list(whole.sizes.values()) == pytest.approx([2_800, 400, 800], abs=5)
    assert len(found["test"]) == pytest.approx(0.2 * len(drawings.scenes()), rel=0.1)
    assert len(found["train"]) == pytest.approx(0.7 * len(drawings.scenes()), rel=0.1)
    alone = np.mean([len(drawings.scenes()[caption].groups) == 1 for caption in texts(whole, "test")])
    assert alone == pytest.approx(0.5, abs=0.06)


def test_the_pictures_depend_on_the_split_seed_alone(dataset):
    other = load(5, source="shapes", examples=1_000, test=0.2)
    changed = load(source="shapes", examples=1_000, test=0.2, split_seed=1)
    for name in ("image", "caption"):
        np.testing.assert_array_equal(dataset.arrays["test"][name], other.arrays["test"][name])
        assert not np.array_equal(dataset.arrays["test"][name], changed.arrays["test"][name])


def test_info_shows_captions_of_the_test_split(dataset):
    info = dataset.info
    assert info.shape == (24, 24, 3) and info.vocab_size == dataset.tokenizer.vocab_size == 26
    assert [dataset.tokenizer.decode(row) for row in info.captions] == texts(dataset, "test")[:64]
    assert {len(row) for row in info.captions} == {8}


def test_a_look_shows_the_captions(dataset):
    _, (images, captions) = data.look(data.resolve("shapes", examples=1_000, test=0.2), "test", 5)
    assert images.shape == (5, 24, 24, 3) and captions == texts(dataset, "test")[:5]


def test_words_are_read_and_written(dataset):
    tokenizer = dataset.tokenizer
    for caption in drawings.scenes():
        assert tokenizer.decode([*tokenizer.encode(caption), 0, 0]) == caption
    assert tokenizer.num_bytes(tokenizer.encode("a red circle")) == 12
    with pytest.raises(ValueError, match=r"expected words of a, above, at, .*; got 'purple'"):
        tokenizer.encode("a purple circle")


def test_sizes_that_shapes_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"config\.data\.size: expected to be greater than or equal to 16|.*16"):
        load(source="shapes", size=15)
