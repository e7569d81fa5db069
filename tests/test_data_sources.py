"""Sources against the files that they read."""

import gzip
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen_jax import data
from gen_jax.data import documents, sources, tools
from gen_jax.data.sources import gaussians, pydoc
from gen_jax.errors import ConfigError, DataError


def load(seed=0, **section):
    return data.load(data.parse(section), seed)


def everything(dataset, name):
    return np.concatenate([arrays[name] for arrays in dataset.arrays.values()])


def batch(feed, step=0):
    return {name: np.asarray(value) for name, value in feed.assemble(feed.resident, feed.rows(step)).items()}


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    dataset = load(source="digits", validation=0, test=0)
    np.testing.assert_array_equal(dataset.arrays["train"]["image"].reshape(-1, 64), np.round(images * 255 / 16))
    np.testing.assert_array_equal(dataset.arrays["train"]["label"], labels)


def test_splits_are_disjoint_and_complete():
    whole = load(source="digits", validation=0, test=0)
    parts = load(source="digits", validation=0.2, test=0.1)
    assert parts.sizes == {"train": 1258, "validation": 359, "test": 180}
    rows = [[one.tobytes() for one in arrays["image"]] for arrays in parts.arrays.values()]
    assert sorted(one for part in rows for one in part) == sorted(
        one.tobytes() for one in whole.arrays["train"]["image"]
    )


def test_splits_depend_on_the_split_seed_alone():
    def split(seed, split_seed):
        return load(seed, source="digits", split_seed=split_seed).arrays["test"]["image"]

    np.testing.assert_array_equal(split(0, 5), split(1, 5))
    assert (split(0, 5) != split(0, 6)).any()


def test_digits_resized():
    dataset = load(source="digits", size=28)
    assert dataset.info.shape == (28, 28, 1)
    small = load(source="digits").arrays["train"]["image"].astype(float)
    back = dataset.arrays["train"]["image"][:, :, :, 0].reshape(-1, 28, 28).astype(float)
    assert abs(back.mean() - small.mean()) < 4


def test_loading_digits_imports_little():
    code = "import sys; from gen_jax import data; data.load(data.parse({'source': 'digits'}), 0); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"sklearn", "tensorflow", "tensorflow_datasets", "grain", "PIL", "matplotlib"}
    assert not slow & set(done.stdout.split())


@pytest.mark.parametrize(("layout", "modes"), [("ring", 8), ("grid", 25)])
def test_gaussians_are_a_mixture_at_their_centres(layout, modes):
    dataset = load(source="gaussians", layout=layout, modes=modes, examples=20_000)
    points, mixture = everything(dataset, "vector"), dataset.info.mixture
    np.testing.assert_allclose(mixture.centres, getattr(gaussians, layout)(modes, 2.0))
    offset = points[:, None] - np.array(mixture.centres)
    nearest = np.linalg.norm(offset, axis=-1).argmin(1)
    np.testing.assert_allclose(np.bincount(nearest) / len(points), 1 / modes, atol=0.01)
    assert mixture.sigma == 0.02
    np.testing.assert_allclose(offset[np.arange(len(points)), nearest].std(0), 0.02, rtol=0.03)


def test_a_grid_is_a_square():
    with pytest.raises(ConfigError, match=r"config\.data\.modes: expected a square number beside layout 'grid', got 8"):
        load(source="gaussians", layout="grid")


def test_stacked_digits_are_three_of_one_split():
    dataset, digits = load(source="stacked", of=dict(source="digits")), load(source="digits")
    assert dataset.info.shape == (8, 8, 3) and dataset.info.num_classes == 1000 and dataset.sizes == digits.sizes
    for split, arrays in dataset.arrays.items():
        assert arrays["image"].dtype == np.uint8 and arrays["label"].dtype == np.int32
        known = {x.tobytes(): y for x, y in zip(*(digits.arrays[split][k] for k in ("image", "label")), strict=True)}
        rows = zip(arrays["image"][:50], arrays["label"][:50], strict=True)
        for image, label in rows:
            a, b, c = (known[np.ascontiguousarray(image[..., i : i + 1]).tobytes()] for i in range(3))
            assert label == 100 * a + 10 * b + c
    again = load(source="stacked", of=dict(source="digits"))
    np.testing.assert_array_equal(again.arrays["test"]["image"], dataset.arrays["test"]["image"])
    other = load(source="stacked", of=dict(source="digits", split_seed=1, test=0.2))
    assert dataset.sizes["test"] == 180 and other.sizes["test"] == 359
    assert not np.array_equal(other.arrays["train"]["label"], dataset.arrays["train"]["label"])


def test_stacked_names_what_it_cannot_stack():
    with pytest.raises(ConfigError, match=r"config\.data\.of\.source: unknown name 'digit'; did you mean digits"):
        load(source="stacked", of=dict(source="digit"))
    with pytest.raises(ConfigError, match=r"config\.data\.of\.size: expected"):
        load(source="stacked", of=dict(source="digits", size=0))
    with pytest.raises(ConfigError, match=r"config\.data\.of: expected grey images with labels, .* found vector"):
        load(source="stacked", of=dict(source="gaussians"))
    for key in ("validation", "test", "split_seed"):
        with pytest.raises(ConfigError, match=rf"{key}: expected in the sections inside of stacked"):
            load(source="stacked", of=dict(source="digits"), **{key: 0.5 if key != "split_seed" else 1})


def test_pydoc_is_pythons_documentation():
    dataset = load(source="pydoc", context=32)
    assert 1e6 < sum(dataset.sizes.values()) < 8e6
    text = "\n\n".join(dataset.tokenizer.decode(tokens) for tokens in dataset.tokens.values())
    assert "Serialize ``obj`` to a JSON formatted" in text  # json.dumps
    assert load(source="pydoc", context=32).tokens["test"].tobytes() == dataset.tokens["test"].tobytes()
    assert 0.05 < dataset.sizes["test"] / sum(dataset.sizes.values()) < 0.2


def test_module_text_runs_nothing():
    source = b'"""Top."""\nraise SystemExit\nclass A(B):\n    """Of A."""\n    def f(self, x=1):\n        """Of f."""\n'
    assert pydoc.module_text("m", source) == (
        "module m\n    Top.\n\nclass A(B)\n    Of A.\n\nA.f(self, x=1)\n    Of f.\n"
    )
    assert pydoc.module_text("m", b"x = 1") == ""


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


def idx(path, header):
    return np.frombuffer(gzip.decompress(path.read_bytes())[header:], np.uint8)


@pytest.mark.slow
def test_mnist_is_the_original(shared_data):
    dataset = load(source="tfds", name="mnist", data_dir=str(shared_data / "tfds"), validation=0)
    assert dataset.sizes == {"train": 60_000, "test": 10_000}
    for split, name in (("train", "train"), ("test", "t10k")):
        image = idx(shared_data / "tfds_manual" / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
        label = idx(shared_data / "tfds_manual" / f"{name}-labels-idx1-ubyte.gz", 8)
        both = np.concatenate([image, label[:, None]], 1)
        arrays = dataset.arrays[split]
        found = np.concatenate([arrays["image"].reshape(-1, 784), arrays["label"][:, None].astype(np.uint8)], 1)
        # TFDS shuffles when it prepares: the same rows in another order
        assert sorted(row.tobytes() for row in found) == sorted(row.tobytes() for row in both)


def test_mnist_streams_what_it_keeps(shared_data):
    section = dict(source="tfds", name="mnist", data_dir=str(shared_data / "tfds"), size=32)
    section_small = section | dict(resident_mb=1)
    streamed = load(**section_small).train_feed(16)
    original = load(**(section_small | dict(size=0))).train_feed(16)
    resident = load(source="tfds", name="mnist", data_dir=section["data_dir"]).train_feed(16)
    assert batch(streamed, 5)["image"].shape == (16, 32, 32, 1)
    left, right = batch(original, 5), batch(resident, 5)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_tiny_shakespeare_is_the_original(shared_data, tokenizer):
    section = dict(source="tfds", name="tiny_shakespeare", data_dir=str(shared_data / "tfds"), order="streams")
    dataset = load(**section, tokenizer=tokenizer)
    text = "".join(dataset.tokenizer.decode(tokens) for tokens in dataset.tokens.values())
    assert text == (shared_data / "tfds_manual" / "input.txt").read_text()
    assert dataset.info.vocab_size == (256 if tokenizer == "byte" else 65)


def test_missing_data_says_what_to_run(tmp_path):
    folder = f"{tmp_path}/a b"
    with pytest.raises(DataError, match=f"gen-jax data prepare mnist '--data_dir={folder}'"):
        load(source="tfds", name="mnist", data_dir=folder)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(source="digit"), r"config\.data\.source: .* did you mean digits"),
        (dict(), r"config\.data\.source: expected one of"),
        (dict(source="digits", siz=8), r"config\.data\.siz: unknown key.* did you mean size"),
        (dict(source="digits", size=0), r"config\.data\.size: expected greater than 0, got 0"),
        (dict(source="digits", validation=1.0), "data.validation"),
        (dict(source="digits", validation=float("nan")), "data.validation"),
        (dict(source="digits", order="windows"), r"config\.data\.order: expected 'permuted', got 'windows'"),
        (dict(source="pydoc", context=-1), "data.context"),
        (dict(source="pydoc", order="random"), r"config\.data\.order: expected .*'streams', got 'random'"),
        (dict(source="tfds"), r"config\.data\.name: expected a value"),
        (dict(source="image_folder", path="x", channels=2), "data.channels"),
    ],
)
def test_wrong_values_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        data.parse(section)


def test_sources_are_listed():
    files = [file for file in Path(data.sources.__file__).parent.glob("*.py") if file.stem != "__init__"]
    assert [file.stem for file in files if f'Literal["{file.stem}"]' not in file.read_text()] == []
    assert {file.stem for file in files} == set(data.list_sources())
    assert all(data.list_sources().values())


def test_look_gives_pictures_or_an_excerpt(tmp_path):
    dataset, (images, classes) = data.look(data.resolve("digits"), n=5)
    np.testing.assert_array_equal(images, dataset.arrays["train"]["image"][:5])
    assert classes == [str(label) for label in dataset.arrays["train"]["label"][:5]]
    _, (plot, _) = data.look(data.resolve("gaussians"), "test")
    assert plot.shape == (1, 128, 128, 1) and plot.dtype == np.uint8 and plot.max() == 255
    (tmp_path / "t.txt").write_text("Some text. " * 200)
    _, excerpt = data.look(data.resolve(str(tmp_path / "t.txt")), "test")
    assert excerpt in "Some text. " * 200
    with pytest.raises(ConfigError, match="found 'tset'"):
        data.look(data.resolve("digits"), "tset")


def test_prose_is_paragraphs_of_words():
    kept = "    Return the number of items that there are, none of them twice\n    over; no more is said."
    code = "Return x + 1 for each of the numbers that are given by the caller, in order."
    text = f"f(x)\n{kept}\n\n{code}\n\n{kept}\n\nToo short.\n"
    plain = "Return the number of items that there are, none of them twice\nover; no more is said."
    assert pydoc.prose(text) == plain
    assert pydoc.prose(f"{kept}\n\n{kept}\n") == f"{plain}\n\n{plain}"
    whole, part = (load(source="pydoc", part=part, order="windows", context=8) for part in ("all", "prose"))
    assert 100_000 < sum(part.sizes.values()) < 0.2 * sum(whole.sizes.values())
    assert not set(part.tokenizer.decode(part.tokens["train"])) & set("()_=0123456789")


def test_packed_documents_come_back():
    texts = ["", "Füße", "\n\n", "end"]
    assert documents.unpack(documents.pack([text.encode() for text in texts])) == texts


@pytest.mark.parametrize("whole", ["abcdefghijklmnopqrst", np.arange(20)])
def test_the_end_of_a_text_is_cut_off(whole):
    source = data.parse(dict(source="pydoc", validation=0.1, test=0.25))
    parts = data.source.cut_end(whole, source, ("validation", "test"))
    assert [len(parts[split]) for split in ("train", "validation", "test")] == [13, 2, 5]
    assert list(parts["test"]) == list(whole[-5:]) and list(parts["validation"]) == list(whole[13:15])
    assert set(data.source.cut_end(whole, source, ("test",))) == {"train", "test"}
    greedy = data.parse(dict(source="pydoc", validation=0.6, test=0.6))
    with pytest.raises(DataError, match="a text of 20 is too short to cut off test, validation"):
        data.source.cut_end(whole, greedy, ("validation", "test"))


@pytest.mark.parametrize("name", sources.known())
def test_a_source_that_needs_no_files_is_known_by_its_name(name):
    fields = importlib.import_module(f"gen_jax.data.sources.{name}").Config.model_fields.values()
    assert (name in tools.EMBEDDED) != any(field.is_required() for field in fields)


def test_a_look_at_a_set_is_images_or_an_excerpt(tmp_path):
    dataset, (images, _) = data.look(data.resolve("digits"), "train", 16)
    np.testing.assert_array_equal(images, dataset.arrays["train"]["image"][:16])
    assert data.describe(dataset)["sizes"] == dataset.sizes
    (tmp_path / "t.txt").write_text("Some text. " * 200)
    _, excerpt = data.look(data.resolve(str(tmp_path / "t.txt")), "test", 1)
    assert excerpt and excerpt in "Some text. " * 200
    _, (density, _) = data.look(data.resolve("gaussians"), "train", 1)
    assert density.dtype == np.uint8 and density.max() == 255


def test_prepare_says_what_is_missing(monkeypatch):
    import importlib.util

    assert "nothing to prepare" in data.prepare("digits")
    with pytest.raises(ConfigError, match="did you mean mnist"):
        data.prepare("mnst")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorflow" else found(name, *a))
    with pytest.raises(DataError, match=r"pip install 'gen-jax\[prepare\]'"):
        data.prepare("mnist")
