"""Sources against the files that they read."""

import subprocess
import sys

import numpy as np
import pytest
from loading import everything, load

from gen_jax.data.sources import gaussians, pydoc
from gen_jax.errors import ConfigError


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
