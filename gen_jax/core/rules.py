"""Update rules that depend on the kind of a leaf, as `leaves` classifies it. Scanned layers are treated like others.

A transformation here sees the trainable leaves only, at their paths. A moment has the path and the shape of its leaf,
so `sharding` shards it in the same way.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from gen_jax.core.leaves import Leaf, classify
from gen_jax.core.state import PyTree, path_name

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024; singular values end between 0.7 and 1.2


def leaf_map(f: Callable, tree: PyTree, *rest: PyTree, fused: Mapping[str, int] | None = None) -> PyTree:
    """`f(Leaf, x, ...)` of each leaf of `tree`; `rest` may have whole trees at its places."""
    return jax.tree_util.tree_map_with_path(lambda path, *xs: f(classify(path_name(path), fused), *xs), tree, *rest)


def decays(params: PyTree) -> PyTree:
    """The mask of weight decay: kernels and tables, not biases, norms and what `leaves` does not know."""
    return leaf_map(lambda leaf, _: not leaf.vector, params)


def scale_by_adafactor() -> optax.GradientTransformation:
    """Adafactor (Shazeer & Stern 2018, algorithms 4 and 5) without the learning rate, with Optax's constants.

    Second moments of kernels and tables are factored if both axes have at least 128 entries. The factors, the clipping
    at RMS 1 and the scaling by the parameter's RMS are computed for each layer.
    """

    def rule(leaf: Leaf) -> optax.GradientTransformation:
        factored = optax.scale_by_factored_rms(factored=not leaf.vector)
        return optax.chain(factored, optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms())

    def init(leaf: Leaf, x: jax.Array) -> PyTree:
        return (jax.vmap(rule(leaf).init) if leaf.stacked else rule(leaf).init)(x)

    def update(leaf: Leaf, grad: jax.Array, state: PyTree, x: jax.Array) -> Any:
        return (jax.vmap(rule(leaf).update) if leaf.stacked else rule(leaf).update)(grad, state, x)

    def update_all(updates: PyTree, state: PyTree, params: PyTree = None) -> Any:
        pairs = leaf_map(update, updates, state, params)
        return tuple(jax.tree.map(lambda _, pair, i=i: pair[i], updates, pairs) for i in (0, 1))

    return optax.GradientTransformation(lambda params: leaf_map(init, params), update_all)


class MuonState(NamedTuple):
    count: Any  # [] int32
    mu: PyTree  # momentum


def muon(
    lr: optax.Schedule,
    rest: optax.GradientTransformation,
    momentum: float,
    consistent_rms: float,
    weight_decay: float,
    fused: Mapping[str, int] | None = None,
) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for hidden matrices and convolutions, `rest` for all other leaves.

    Args:
      consistent_rms: as in `orthogonal_step`.
      weight_decay: decoupled.
      fused: as in `leaves.classify`: each of the matrices side by side is made orthogonal by itself.
    """
    hidden = optax.chain(
        scale_by_muon(momentum, consistent_rms, fused),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(lr),
    )
    return optax.partition(
        {"hidden": hidden, "rest": rest},
        lambda params: leaf_map(lambda leaf, _: "hidden" if leaf.hidden else "rest", params),
    )


def scale_by_muon(
    momentum: float, consistent_rms: float, fused: Mapping[str, int] | None = None
) -> optax.GradientTransformation:
    """Nesterov momentum, its bias corrected as in Optax, then `orthogonal_step` of each leaf."""

    def init(params: PyTree) -> MuonState:
        return MuonState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

    def update(grads: PyTree, state: MuonState, params: PyTree = None) -> tuple[PyTree, MuonState]:
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(grads, state.mu, momentum, 1)
        ahead = optax.tree.bias_correction(mu, momentum, optax.safe_increment(count))
        now = optax.tree.bias_correction(grads, momentum, count)
        direction = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, ahead, now)
        steps = leaf_map(lambda leaf, x: orthogonal_step(leaf, x, consistent_rms), direction, fused=fused)
        return steps, MuonState(count, mu)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType] - optax's annotation


def orthogonal_step(leaf: Leaf, x: Float[Array, "*shape"], consistent_rms: float) -> Float[Array, "*shape"]:
    """`x` with each of its matrices [in, out] made orthogonal and scaled.

    A kernel of a convolution is the matrix [all other axes, out], a layer and a part of a fused kernel one each.

    Args:
      consistent_rms: of the entries, whatever the shape (Liu et al. 2025; 0.2 is about AdamW's); 0 = a matrix
        is scaled by sqrt(max(1, out / in)) instead (Jordan et al. 2024).
    """
    turned = jnp.moveaxis(x, leaf.output, -1)
    layers = turned.shape[0] if leaf.stacked else 1
    cut = turned.reshape(layers, -1, leaf.blocks, turned.shape[-1] // leaf.blocks).swapaxes(
        1, 2
    )  # [L, blocks, in, out]
    rows, columns = cut.shape[-2:]
    scale = consistent_rms * math.sqrt(max(rows, columns)) if consistent_rms else math.sqrt(max(1, columns / rows))
    whole = scale * orthogonalise(cut).swapaxes(1, 2)
    return jnp.moveaxis(whole.reshape(turned.shape), -1, leaf.output)


def orthogonalise(x: Float[Array, "*batch n m"]) -> Float[Array, "*batch n m"]:
    """About U V^T of x = U S V^T, by five steps of Newton-Schulz: x <- a x + b (x x^T) x + c (x x^T)^2 x."""
    a, b, c = NEWTON_SCHULZ
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.swapaxes(-1, -2)
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-8)
    for _ in range(5):
        gram = x @ x.swapaxes(-1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.swapaxes(-1, -2)
