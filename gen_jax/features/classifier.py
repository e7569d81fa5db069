"""A small classifier that is trained on the data set itself: its last hidden layer gives features."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int, Key, UInt8

from gen_jax.core import ops
from gen_jax.features import Features, PyTree, Weights, digest
from gen_jax.io.cache import cached
from gen_jax.runs.progress import Progress
from gen_jax.settings import Count, Decay, Few, Positive, PositiveFloat, Settings

Split = tuple[np.ndarray, np.ndarray]  # uint8 [N, H, W, C], int32 [N]


class Recipe(Settings):
    """What the weights depend on besides the data. The rate falls to 0 as a cosine."""

    widths: tuple[Positive, ...] = (32, 64)
    """Channels of 4x4 convolutions of stride 2."""
    features: Positive = 128
    """F."""
    dropout: Decay = 0.3
    """Dropout rate of the features."""
    epochs: Few = 8
    """Passes over the training images."""
    batch: Positive = 128
    """Images of a step."""
    lr: PositiveFloat = 2e-3
    """The peak learning rate."""
    shift: Count = 2
    """Pixels that a training image is moved by at most, up to an eighth of its sides."""
    seed: Count = 0
    """Seed of the weights and of the order."""


class Classifier(nn.Module):
    """uint8 images [B, H, W, C] -> features [B, F] and logits [B, K]."""

    recipe: Recipe
    num_classes: int

    @nn.compact
    def __call__(self, image: UInt8[Array, "B H W C"], train: bool) -> tuple[Float[Array, "B F"], Float[Array, "B K"]]:
        x = ops.to_signed(image)
        for width in self.recipe.widths:
            x = nn.Conv(width, (4, 4), strides=2, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.95)(x))
        x = nn.Dense(self.recipe.features, use_bias=False)(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.95)(x))
        return x, nn.Dense(self.num_classes)(nn.Dropout(self.recipe.dropout, deterministic=not train)(x))


def shifted(rng: Key[Array, ""], image: UInt8[Array, "B H W C"], most: int) -> UInt8[Array, "B H W C"]:
    """Each image moved by -most ... most pixels along both sides; what comes in repeats the edge."""
    padded = jnp.pad(image, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    starts = jax.random.randint(rng, (len(image), 2), 0, 2 * most + 1)
    cut = functools.partial(jax.lax.dynamic_slice, slice_sizes=image.shape[1:])
    return jax.vmap(lambda one, start: cut(one, (start[0], start[1], 0)))(padded, starts)


def train(recipe: Recipe, data: Split, num_classes: int, poll: Callable[[], None] = lambda: None) -> PyTree:
    """The variables of a `Classifier` of these labelled images; with progress and ETA on stderr."""
    images, labels = data
    net, batch = Classifier(recipe, num_classes), min(recipe.batch, len(images))
    per_epoch = len(images) // batch
    steps = recipe.epochs * per_epoch
    tx = optax.adam(optax.cosine_decay_schedule(recipe.lr, steps))
    shift = min(recipe.shift, images.shape[1] // 8, images.shape[2] // 8)
    init_key, key = jax.random.split(jax.random.key(recipe.seed))
    variables = jax.jit(functools.partial(net.init, train=False))(init_key, jnp.asarray(images[:1]))
    params, stats = variables["params"], variables["batch_stats"]

    def loss(params: PyTree, stats: PyTree, image: Array, label: Int[Array, " B"], rng: Array) -> Any:
        found = {"params": params, "batch_stats": stats}
        (_, logits), new = net.apply(found, image, True, mutable=["batch_stats"], rngs={"dropout": rng})  # pyright: ignore
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), new["batch_stats"]

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, stats, opt, image, label, number):
        shift_rng, rng = jax.random.split(jax.random.fold_in(key, number))
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(
            params, stats, shifted(shift_rng, image, shift), label, rng
        )
        updates, opt = tx.update(grads, opt)
        return optax.apply_updates(params, updates), stats, opt, value

    opt, order = tx.init(params), np.arange(0)
    with Progress("classifier", steps) as progress:
        for number in range(steps):
            epoch, place = divmod(number, per_epoch)
            if place == 0:
                order = np.random.default_rng([recipe.seed, epoch]).permutation(len(images))
            rows = order[place * batch : (place + 1) * batch]
            params, stats, opt, value = step(params, stats, opt, images[rows], labels[rows], number)
            if number % 50 == 49:
                poll()
                progress.update(number + 1, f"loss {float(value):.4f}")
        progress.update(steps)
    return jax.device_get({"params": params, "batch_stats": stats})


def accuracy(apply: Callable, variables: PyTree, data: Split, batch: int = 500) -> float:
    """The share of images [N] whose label has the largest logit."""
    images, labels = data
    predict = jax.jit(lambda variables, image: apply(variables, image)[1].argmax(-1))
    found = [predict(variables, images[i : i + batch]) for i in range(0, len(images), batch)]
    return float((np.concatenate(jax.device_get(found)) == labels).mean())


def features(
    recipe: Recipe, num_classes: int, data: Callable[[], Split], test: Callable[[], Split], poll: Callable[[], None]
) -> Features:
    """The feature function `classifier`; trained at first use, then read from the cache.

    The file's name is a hash of training data and recipe; with the weights it holds their `sha256` and their
    `accuracy` on `test`.
    """
    net = Classifier(recipe, num_classes)

    def apply(variables: PyTree, image: jax.Array) -> Any:
        return net.apply(variables, image, False)

    def load() -> Weights:
        labelled = data()

        def trained() -> dict[str, Any]:
            variables = train(recipe, labelled, num_classes, poll)
            share, flat = accuracy(apply, variables, test()), traverse_util.flatten_dict(variables, sep="/")
            print(f"classifier {digest(variables)[:12]}: accuracy {share:.2%}", file=sys.stderr, flush=True)
            return flat | {"accuracy": np.float64(share), "sha256": np.array(digest(variables))}

        key = digest([np.frombuffer(recipe.model_dump_json().encode(), np.uint8), *labelled])
        flat = cached(f"classifier_{key[:16]}", trained)
        variables = {name: leaf for name, leaf in flat.items() if "/" in name}
        return Weights(traverse_util.unflatten_dict(variables, sep="/"), str(flat["sha256"])[:12])

    return Features("classifier", "none", apply, load)
