"""Unpaired sets of images: sources, the known map of colours, the evaluator, and translations by the command line."""

import argparse
import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import smoke
from PIL import Image

from gen_jax import cli, data, evaluators
from gen_jax.commands import translated
from gen_jax.core.state import State
from gen_jax.data.sources import colours
from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import Context
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train
from gen_jax.training.program import Program

FOLDERS = "experiments/cyclegan/folders.py"


def load(seed=0, **section):
    return data.load(data.parse(section), seed)


def batch(feed, step=0):
    return {name: np.asarray(value) for name, value in feed.assemble(feed.resident, feed.rows(step)).items()}


def restore(image):
    """Undoes `colours.recolour`."""
    return 255 - image[..., [2, 0, 1]]


def test_the_known_map_is_undone_exactly():
    image = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)
    np.testing.assert_array_equal(restore(colours.recolour(image)), image)
    np.testing.assert_array_equal(colours.recolour(restore(image)), image)


def test_paint_is_ink_on_paper():
    grey = np.array([0, 255, 51], np.uint8).reshape(1, 1, 3, 1)
    painted = colours.paint(np.tile(grey, (2000, 1, 1, 1)), np.random.default_rng(0))
    paper, ink, between = painted[:, 0, 0], painted[:, 0, 1], painted[:, 0, 2]
    assert (paper[:, :2] == 0).all() and (ink[:, 0] == 255).all() and (ink[:, 2] == 0).all()
    np.testing.assert_allclose(between, 0.2 * ink + 0.8 * paper, atol=1.01)
    for share in (ink[:, 1] / 255, paper[:, 2] / 255):  # squares of uniform numbers: mean 1/3, variance 4/45
        assert abs(share.mean() - 1 / 3) < 4 * (4 / 45 / 2000) ** 0.5
    assert abs(np.corrcoef(ink[:, 1], paper[:, 2])[0, 1]) < 0.1


def test_no_training_image_is_in_both_halves_and_the_others_are_aligned():
    grey = load(source="digits")
    coloured = load(source="colours")
    assert coloured.sizes == {"train": 718, "validation": 180, "test": 180} and coloured.info.aligned
    a, b = (getattr(coloured, side).arrays for side in "ab")

    def ink(images):  # the red channel of A is the grey image
        return [one[..., 0].tobytes() for one in images]

    halves = ink(a["train"]["image"]), ink(restore(b["train"]["image"]))
    whole = [one.tobytes() for one in grey.arrays["train"]["image"]]
    assert sorted(halves[0] + halves[1]) == sorted(whole)
    for split in ("validation", "test"):
        np.testing.assert_array_equal(colours.recolour(a[split]["image"]), b[split]["image"])
        np.testing.assert_array_equal(a[split]["image"][..., :1], grey.arrays[split]["image"])


def write_folder(path, n, size=20, level=0):
    """Pictures of one colour each, whose red level counts them."""
    path.mkdir(parents=True)
    for i in range(n):
        Image.fromarray(np.full((size, size, 3), (i * 9, level, 255 - level), np.uint8)).save(path / f"{i:02}.png")
    return str(path)


@pytest.fixture
def two(tmp_path):
    folder = dict(source="image_folder", size=16, validation=0.0, test=0.25)
    a, b = write_folder(tmp_path / "a", 12), write_folder(tmp_path / "b", 20, level=255)
    return dict(source="unpaired", a=dict(folder, path=a), b=dict(folder, path=b))


def test_rows_of_two_folders_are_drawn_independently(two):
    found = load(**two)
    assert found.sizes == {"train": 9, "test": 3} and found.info.shape == (16, 16, 3) and not found.info.aligned
    feed, again = load(**two).train_feed(6), load(**two).train_feed(6)
    seen = [batch(feed, step) for step in range(15)]  # 10 epochs of A, 6 of B
    reds = {side: np.concatenate([one[f"image_{side}"][:, 0, 0, 0] // 9 for one in seen]) for side in "ab"}
    assert (np.bincount(np.unique(reds["a"], return_inverse=True)[1]) == 10).all()
    assert (np.bincount(np.unique(reds["b"], return_inverse=True)[1]) == 6).all()
    assert all((one["image_a"][..., 1] == 0).all() and (one["image_b"][..., 1] == 255).all() for one in seen)
    for name, value in batch(again, 7).items():  # a function of (seed, step)
        np.testing.assert_array_equal(value, seen[7][name])
    part = feed.rows(3, slice(2, 4))
    np.testing.assert_array_equal(part["index_b"], feed.rows(3)["index_b"][2:4])
    test = found.eval_feed("test", 2)
    assert test.num_batches == 2 and [batch(test, i)["valid"].tolist() for i in range(2)] == [
        [True, True],
        [True, False],
    ]


def test_two_halves_of_one_set_are_not_in_step():
    found = load(source="unpaired", a=dict(source="digits"), b=dict(source="digits"))
    rows = [found.train_feed(50).rows(step) for step in range(10)]
    assert sum((row["index_a"] == row["index_b"]).sum() for row in rows) < 10


def test_two_arrays(tmp_path):
    for name in "ab":
        np.savez(tmp_path / name, image=np.full((10, 4, 6, 3), ord(name), np.uint8))
    parts = {name: dict(source="npz", path=str(tmp_path / f"{name}.npz")) for name in "ab"}
    found = batch(load(source="unpaired", **parts).train_feed(4))
    assert found["image_a"].shape == (4, 4, 6, 3) and (found["image_b"] == ord("b")).all()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(source="unpaired", a=dict(source="digits")), r"config\.data\.b: expected a value"),
        (dict(source="unpaired", a=dict(source="digit"), b={}), r"config\.data\.a\.source: unknown name 'digit'"),
        (dict(source="colours", of=dict(source="digits", siz=8)), r"config\.data\.of\.siz: unknown key"),
        (dict(source="colours", test=0.3), r"config\.data\.test: expected in the sections inside of colours"),
        (
            dict(source="colours", of=dict(source="gaussians")),
            r"config\.data\.of: expected a source of images, found vector",
        ),
        (
            dict(source="unpaired", a=dict(source="digits"), b=dict(source="digits", size=9)),
            r"config\.data\.b: expected images \(8, 8, 1\), like a, found \(9, 9, 1\)",
        ),
    ],
)
def test_wrong_sections_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        load(**section)


@pytest.mark.parametrize(
    ("path", "section", "message"),
    [
        (
            "experiments/vae/digits.py",
            dict(source="colours"),
            "expected images, as the model reads, found unpaired",
        ),
        (FOLDERS, dict(source="digits"), "expected two unpaired sets of images, as the model reads, found image"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(path, section, message):
    with pytest.raises(ConfigError, match=f"config.data: {message}"):
        Program(smoke(path).model_copy(update={"data": data.parse(section)}))


def test_a_look_at_both_sets():
    dataset, (images, sets) = data.look(data.resolve("colours"), "test", 3)
    assert sets == [*"aaabbb"]
    np.testing.assert_array_equal(colours.recolour(images[:3]), images[3:])
    assert data.describe(dataset)["kind"] == "unpaired"


class Known:
    """Translates by the known map, `off` levels too dark; back exactly."""

    def __init__(self, off):
        self.off = off

    def translate_images(self, state, images, direction):
        if direction == "a2b":
            return jnp.maximum(255 - images[..., jnp.array([1, 2, 0])].astype(int) - self.off, 0).astype(jnp.uint8)
        return (255 - images)[..., jnp.array([2, 0, 1])]


@pytest.mark.parametrize("off", [0, 51])
def test_the_evaluator_measures_the_distance_from_the_known_map(off, written):
    found = load(source="colours")

    def batches(split):
        feed = found.eval_feed(split, 50)
        for i in range(feed.num_batches):
            yield jax.tree.map(jnp.asarray, batch(feed, i))

    context = Context(Known(off), found.info, batches, 50, None, jax.random.key(0))
    reports = {}
    for split in ("validation", "train"):
        section = evaluators.parse(dict(type="image_translation", split=split, n=3))
        reports[split] = evaluators.build(section, context)(State(jnp.zeros((), int), {}))
        assert reports[split].images.keys() == {"a2b", "b2a"}
        assert [f"Translations from {way}, {split}" in written for way in ("a to b", "b to a")] == [True] * 2
        rows = ("a", "translated to b", "true b", "back to a")
        heights = [written[name][0][1] for name in rows if name in written]
        assert heights == sorted(heights) and len(heights) == (4 if split == "validation" else 3)
        written.clear()
    assert reports["train"].scalars.keys() == {"cycle_error_a", "cycle_error_b"}  # no row is a pair
    truth, scalars = found.b.arrays["validation"]["image"].astype(float), reports["validation"].scalars
    assert scalars["error_b2a"] == 0
    assert scalars["error_a2b"] == pytest.approx(np.minimum(truth, off).mean() / 255, rel=1e-5)
    assert (scalars["cycle_error_a"] == 0) == (off == 0)


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(list(argv))
    error = capsys.readouterr().err
    assert stop.value.code in (2, 5) and error.count("gen-jax: ") == 1
    return error


@pytest.mark.parametrize(
    "flags, options, says",
    [
        (("--images=b",), {}, ""),
        (("--images=b", "--accept_data", "--overwrite", "--step=3"), {}, ""),
        ((), {}, "--translate: expected a2b or b2a, and --images=FOLDER"),
        (("--images=b", "--stream"), {}, "--stream: expected none beside --translate"),
        (("--images=b",), {"temperature": "1"}, "--temperature: expected none beside --translate"),
    ],
)
def test_what_a_translation_does_not_read_is_refused(flags, options, says):
    _, args, _ = cli.parse(["sample", "--workdir=a", "--translate=a2b", *flags])
    program = Program.__new__(Program)
    program.model, program.dataset = Known(0), load(source="colours")
    program.experiment = smoke("experiments/cyclegan/colours.py")
    with pytest.raises(ConfigError, match=f"^{says}") if says else contextlib.nullcontext():
        translated.check(args, program, options)


@pytest.mark.slow
def test_it_trains_on_two_folders_and_translates_a_third(two, tmp_path, capsys, written):
    experiment = smoke(FOLDERS)
    section = data.parse(two)
    model = experiment.model.model_copy(update={"image": (16, 16, 3)})
    train(experiment.model_copy(update={"data": section, "model": model, "eval_batch_size": 3}), tmp_path / "run")
    last = RunDir(tmp_path / "run").rows()[-1]
    assert {"test/cycle_error_a", "test/cycle_error_b", "test/disc_a_loss"} <= last.keys()
    assert "test/error_a2b" not in last
    workdir = f"--workdir={tmp_path / 'run'}"
    images = write_folder(tmp_path / "new", 5, size=30)
    capsys.readouterr()
    argv = ["sample", workdir, "--translate=b2a", f"--images={images}"]
    cli.main(argv)
    folder, grid = map(Path, capsys.readouterr().out.split())
    assert grid.name == "translate_run_step4_b2a.png" and grid.exists()
    assert {"Translations of run at step 4", "b", "to a"} <= {*written}
    assert [file.name for file in sorted(folder.iterdir())] == [f"{i:02}.png" for i in range(5)]
    assert np.asarray(Image.open(folder / "03.png")).shape == (16, 16, 3)
    cli.main(argv)
    again, other = map(Path, capsys.readouterr().out.split())
    assert (again.name, other.name) == (f"{folder.name}-2", "translate_run_step4_b2a-2.png")
    assert len([*again.iterdir()]) == len([*folder.iterdir()]) == 5
    cli.main([*argv, "--overwrite"])
    assert capsys.readouterr().out.split() == [f"{folder}/", str(grid)]
    (Path(images) / "03.jpg").write_bytes((Path(images) / "03.png").read_bytes())
    assert "expected one picture of each name, found several called '03'" in fails(capsys, *argv)
    assert "--translate: expected a2b or b2a, and --images=FOLDER" in fails(capsys, "sample", workdir)
    assert "--images: expected --translate" in fails(capsys, "sample", workdir, f"--images={images}")
    for flag in ("n", "seed"):
        assert f"--{flag}: expected none beside --translate" in fails(capsys, *argv, f"--{flag}=3")
    for flag in ("top_k", "temperature"):
        assert f"--{flag}: the model cyclegan has no such option" in fails(capsys, *argv, f"--{flag}=3")
    empty = [*argv[:-1], f"--images={tmp_path}"]
    assert "--images: no pictures" in fails(capsys, *empty)


def test_what_is_translated_lies_on_the_background_of_its_set(tmp_path):
    for name, background in (("a", 77), ("b", 200)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((8, 8, 4), (255, 0, 0, 0), np.uint8)).save(tmp_path / name / f"{background}.png")
    sides = {
        name: dict(source="image_folder", path=str(tmp_path / name), size=8, background=level, validation=0, test=0)
        for name, level in (("a", 77), ("b", 200))
    }
    section = data.parse(dict(source="unpaired", **sides))
    dataset = data.load(section, 0)
    for side, level in (("a", 77), ("b", 200)):
        assert translated._background(section, side) == level
        files = translated._files(str(tmp_path / side))
        (found,) = translated._batches(files, dataset.info, 4, level)
        np.testing.assert_array_equal(found, np.full((1, 8, 8, 3), level))
        np.testing.assert_array_equal(found, getattr(dataset, side).arrays["train"]["image"])
    assert translated._background(data.parse({"source": "colours"}), "a") == 255


def test_a_model_that_does_not_translate_says_so():
    args = argparse.Namespace(translate="a2b", images="folder")
    with pytest.raises(ConfigError, match="--translate: expected a model that translates images; vae does not"):
        translated.check(args, Program(smoke("experiments/vae/digits.py")), {})
