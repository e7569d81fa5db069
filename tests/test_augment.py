"""DiffAugment against NumPy at known draws; gradients pass through what is left of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.core import augment, ops

ROOT = jax.random.key(0)
X = np.random.default_rng(0).uniform(-1, 1, (6, 8, 16, 3)).astype(np.float32)


def draws(rng, n):
    return np.asarray(ops.uniform(rng, (len(X), n)), np.float64)


def numpy_color(x, brightness, saturation, contrast):
    x = x + brightness - 0.5
    grey = x.mean(-1, keepdims=True)
    x = grey + 2 * saturation * (x - grey)
    return x.mean() + (contrast + 0.5) * (x - x.mean())


def numpy_translation(x, down, right):
    out = np.zeros_like(x)
    (dy, dx), (h, w, _) = (int(np.floor(down * 3)) - 1, int(np.floor(right * 5)) - 2), x.shape
    for i in range(h):
        for j in range(w):
            if 0 <= i - dy < h and 0 <= j - dx < w:
                out[i, j] = x[i - dy, j - dx]
    return out


def numpy_cutout(x, down, right):
    out, (h, w, _) = x.copy(), x.shape
    top, left = int(np.floor(down * (h + 1))) - h // 4, int(np.floor(right * (w + 1))) - w // 4
    out[max(top, 0) : top + h // 2, max(left, 0) : left + w // 2] = 0
    return out


REFERENCES = {"color": (numpy_color, 3), "translation": (numpy_translation, 2), "cutout": (numpy_cutout, 2)}


@pytest.mark.parametrize("name", augment.POLICIES)
@pytest.mark.parametrize("by_row", [False, True])
def test_values_at_known_draws(name, by_row):
    rng = ops.row_keys(ROOT, jnp.arange(len(X))) if by_row else ROOT
    reference, n = REFERENCES[name]
    expected = [reference(x.astype(np.float64), *draw) for x, draw in zip(X, draws(rng, n), strict=True)]
    found = jax.jit(augment.POLICIES[name])(X, rng)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, X)


def test_no_policy_is_the_identity():
    np.testing.assert_array_equal(augment.augment(jnp.asarray(X), ROOT, ()), X)


def test_policies_follow_each_other_and_let_gradients_through():
    names = ("color", "translation", "cutout")

    def f(x):
        return augment.augment(x, ROOT, names)

    expected = jnp.asarray(X)
    for name, key in zip(names, ops.split(ROOT, 3), strict=True):
        expected = augment.POLICIES[name](expected, key)
    np.testing.assert_allclose(jax.jit(f)(jnp.asarray(X)), expected, atol=1e-5)
    slope, step = (
        jax.jit(jax.grad(lambda x: (f(x) ** 2).sum()))(jnp.asarray(X)),
        1e-2 * np.random.default_rng(1).normal(size=X.shape),
    )
    change = (np.float64(f(jnp.asarray(X + step))) ** 2).sum() - (np.float64(f(jnp.asarray(X - step))) ** 2).sum()
    np.testing.assert_allclose((slope * 2 * step).sum(), change, rtol=1e-2)
    assert (np.abs(slope).sum((1, 2, 3)) > 0).all()
