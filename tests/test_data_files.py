"""Texts, pictures and arrays in a user's files."""

import numpy as np
import pytest
from loading import batch, everything, load
from PIL import Image

from gen_jax.errors import DataError


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_a_text_file_is_cut_in_place(tmp_path, tokenizer):
    text = "Füße und Straßen.\r\n" * 50
    (tmp_path / "a.txt").write_bytes(text.encode())
    dataset = load(source="text_file", path=str(tmp_path / "a.txt"), tokenizer=tokenizer, context=8)
    parts = [dataset.tokenizer.decode(dataset.tokens[split]) for split in ("train", "validation", "test")]
    assert "".join(parts) == text
    assert [len(part) for part in parts] == [760, 95, 95]
    assert dataset.info.vocab_size == (256 if tokenizer == "byte" else len(set(text)))


def test_a_text_folder_is_cut_by_file(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text(f"<{i:02}>" * 10)
    dataset = load(source="text_file", path=str(tmp_path), validation=0.1, test=0.2, context=8)
    found = {split: dataset.tokenizer.decode(tokens).split("\n\n") for split, tokens in dataset.tokens.items()}
    assert {split: len(documents) for split, documents in found.items()} == {"train": 14, "validation": 2, "test": 4}
    assert sorted(one for part in found.values() for one in part) == [f"<{i:02}>" * 10 for i in range(20)]


def write_pictures(root, split=""):
    """One colour a picture: its red level says which it is."""
    for i in range(12):
        folder = root / split / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        wide = np.zeros((20, 60, 3), np.uint8)
        wide[:, 20:40] = (i * 20, 0, 255)  # the centre square
        Image.fromarray(wide).save(folder / f"{i:02}.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_image_folder_crops_the_centre(tmp_path, channels):
    write_pictures(tmp_path)
    dataset = load(source="image_folder", path=str(tmp_path), size=16, channels=channels, test=0.25, validation=0)
    assert dataset.info.class_names == ("cat", "dog")
    assert dataset.sizes == {"train": 9, "test": 3}
    image, label = everything(dataset, "image"), everything(dataset, "label")
    assert image.shape == (12, 16, 16, channels)
    if channels == 3:
        assert (image[..., 2] == 255).all()  # nothing black from the sides
        assert sorted(image[:, 0, 0, 0].tolist()) == [i * 20 for i in range(12)]
        np.testing.assert_array_equal(image[:, 0, 0, 0] // 20 % 2 == 0, label == 1)


def test_a_streamed_set_gives_the_batches_of_a_resident_one(tmp_path):
    for split in ("train", "test"):
        write_pictures(tmp_path, split)
    section = dict(source="image_folder", path=str(tmp_path), size=256, channels=3)
    resident, streamed = load(**section), load(**section, resident_mb=1)
    assert streamed.train_feed(4).resident == {} and resident.train_feed(4).resident
    assert streamed.sizes == resident.sizes == {"train": 11, "validation": 1, "test": 12}
    for one, other in [
        (resident.train_feed(5), streamed.train_feed(5)),
        (resident.eval_feed("test", 5), streamed.eval_feed("test", 5)),
        (resident.eval_feed("validation", 5), streamed.eval_feed("validation", 5)),
    ]:
        assert one.num_batches == other.num_batches
        for step in [0, 1, 2, 0, 7][: 5 if one.num_batches is None else 1]:
            left, right = batch(one, step), batch(other, step)
            assert left.keys() == right.keys()
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])
    part, whole = streamed.train_feed(5).rows(3, slice(2, 4)), streamed.train_feed(5).rows(3)
    np.testing.assert_array_equal(part["image"], whole["image"][2:4])
    codes = {split: {"codes": np.arange(n) * 3} for split, n in streamed.sizes.items()}
    made = batch(streamed.with_arrays(codes).train_feed(5), 1)
    np.testing.assert_array_equal(made["codes"], made["index"] * 3)
    assert made["image"].shape == (5, 256, 256, 3)


def test_a_broken_picture_is_named(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "cat" / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"bad\.png"):
        load(source="image_folder", path=str(tmp_path))


def test_npz_images(tmp_path):
    path = str(tmp_path / "a.npz")
    image = np.random.default_rng(0).integers(0, 256, (30, 5, 6), np.uint8)
    np.savez(path, image=image, label=np.arange(30) % 4, test_image=image[:3], test_label=np.zeros(3, int))
    dataset = load(source="npz", path=path, validation=0.2)
    assert (dataset.info.shape, dataset.info.num_classes) == ((5, 6, 1), 4)
    assert dataset.sizes == {"train": 24, "validation": 6, "test": 3}
    np.testing.assert_array_equal(dataset.arrays["test"]["image"][..., 0], image[:3])


def test_npz_tokens_and_vectors(tmp_path):
    np.savez(tmp_path / "t.npz", tokens=np.arange(1000))
    dataset = load(source="npz", path=str(tmp_path / "t.npz"), order="streams", context=10)
    np.testing.assert_array_equal(np.concatenate(list(dataset.tokens.values())), np.arange(1000))
    assert dataset.info.vocab_size == 1000
    np.savez(tmp_path / "v.npz", vector=np.eye(20))
    assert load(source="npz", path=str(tmp_path / "v.npz")).info.shape == (20,)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(image=np.zeros((4, 2, 2))), "image of train: expected uint8"),
        (dict(image=np.zeros((4, 2, 2), np.uint8), label=np.zeros(3, int)), "label of train"),
        (dict(vector=np.full((4, 2), np.nan)), "finite"),
        (dict(tokens=np.array([-1, 2])), "tokens of train"),
        (dict(images=np.zeros(3)), "expected one of image, vector or tokens"),
        (dict(vector=np.array([{}], object)), "not an .npz of plain arrays"),
    ],
)
def test_npz_refuses_what_it_cannot_use(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(source="npz", path=str(tmp_path / "a.npz"))
