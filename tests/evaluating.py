"""Small contexts, data and models of the tests of evaluators."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from members import asks

from gen_jax import data, evaluators
from gen_jax.core.sampling import Text
from gen_jax.core.state import Mean, State
from gen_jax.data.sources.gaussians import ring
from gen_jax.evaluators.evaluator import Context
from gen_jax.models import vae

STATE = State(jnp.zeros((), jnp.int32), {})


def batched(arrays: dict, size: int):
    """The batches of a split; the rows that pad the last one hold rubbish."""
    n = len(next(iter(arrays.values())))
    for start in range(0, n, size):
        index = np.arange(start, start + size)
        batch = {name: jnp.asarray(array[np.minimum(index, n - 1)]) for name, array in arrays.items()}
        for name, array in batch.items():
            if jnp.issubdtype(array.dtype, jnp.floating):
                batch[name] = jnp.where((index < n).reshape(-1, *[1] * (array.ndim - 1)), array, jnp.nan)
        yield batch | {"index": jnp.asarray(index), "valid": jnp.asarray(index < n)}


def build(section: dict, model: Any, arrays: dict, size: int = 4, sampling: type | None = None, **info):
    known = data.Info(**(dict(kind="vector", shape=(2,)) | info))
    context = Context(
        model,
        known,
        lambda split: batched(arrays, size),
        size,
        decode,
        jax.random.key(7),
        encode_text=encode,
        **asks(sampling or (Text if known.kind == "tokens" else vae.Sampling), known, encode),
    )
    return evaluators.build(evaluators.parse(section), context)


def encode(text: str):
    return np.array([ord(c) for c in text])


def decode(ids) -> str:
    return "".join(map(chr, np.asarray(ids)))


def count_bytes(ids) -> int:
    return len(decode(ids).encode())


@dataclasses.dataclass(frozen=True)
class Weighted:
    """Metrics that the batch holds; counts how often it is traced."""

    traces: list = dataclasses.field(default_factory=list, compare=False)

    def eval_step(self, state, batch, rng):
        self.traces.append(1)
        x = batch["vector"]
        means = {"loss": Mean(x[:, 0], x[:, 1]), "other": Mean.of(x[:, 1])}
        return {name: mean.where(batch["valid"]) for name, mean in means.items()}


def streams(tokens: np.ndarray, rows: int, length: int):
    """Row b covers its own stretch; the last window is padded."""
    stretch = -(-(len(tokens) - 1) // rows)
    windows = -(-stretch // length)
    for i in range(windows):
        at = np.arange(rows)[:, None] * stretch + i * length + np.arange(length + 1)
        mask = (np.arange(length) + i * length < stretch) & (at[:, 1:] < len(tokens))
        yield {
            "tokens": jnp.asarray(tokens[np.minimum(at, len(tokens) - 1)]),
            "mask": jnp.asarray(mask, jnp.float32),
            "reset": jnp.full(rows, i == 0),
            "index": jnp.arange(rows) * windows + i,
            "valid": jnp.asarray(mask.any(1)),
        }


TEXT = encode("The quick bröwn fox — jumps över the lazy dög.")


def tokens_context(model, rows=3, length=5):
    info = data.Info("tokens", (length + 1,), vocab_size=10_000)
    return Context(
        model, info, lambda _: streams(TEXT, rows, length), rows, decode, jax.random.key(0), encode, count_bytes
    )


@dataclasses.dataclass(frozen=True)
class Linear:
    """Latents are the two pixels scaled; decoding undoes it, clipped to [0, 255]."""

    scale: tuple = (1.0, 1.0, 1.0)

    def encode(self, state, batch):
        return batch["image"].reshape(-1, len(self.scale)).astype(jnp.float32) * jnp.array(self.scale)

    def decode(self, state, latents):
        x = jnp.round(latents / jnp.array(self.scale)).clip(0, 255).astype(jnp.uint8)
        return x.reshape(-1, 1, len(self.scale), 1)

    def sample(self, state, rng, n, options):
        z = options.temperature * jax.random.uniform(rng, (n, len(self.scale))) * 255
        return z.astype(jnp.uint8).reshape(n, 1, -1, 1)


def small_images(n=21):
    return np.random.default_rng(5).integers(0, 256, (n, 1, 3, 1), dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class Codes:
    num_codes: int = 8

    def encode(self, state, batch):
        return batch["codes"]


@dataclasses.dataclass(frozen=True)
class Off:
    """Reconstructs with an error of its own for each example."""

    def reconstruct(self, state, batch, rng):
        return batch["image"] + (1 + batch["index"] % 2 * 4).astype(jnp.uint8)[:, None, None, None]


@dataclasses.dataclass(frozen=True)
class Ring:
    covered: int

    def sample(self, state, rng, n, options):
        centres = jnp.asarray(ring(8, 2.0)[: self.covered], jnp.float32)
        return centres[jnp.arange(n) % self.covered] + 0.01 * jax.random.normal(rng, (n, 2))


IMAGES = dict(kind="image", shape=(1, 3, 1))


TRAVERSALS = "Traversals: one latent moves, the others stay at"


@dataclasses.dataclass(frozen=True)
class Told(Linear):
    """Decodes to its label, whatever the latents."""

    num_classes: int = 4

    def decode(self, state, latents, label=None):
        assert label is not None
        return jnp.broadcast_to(label.astype(jnp.uint8)[:, None, None, None], (len(latents), 1, 3, 1))
