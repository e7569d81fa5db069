"""InceptionV3 with FID's weights, from a safetensors file by pytorch-fid's names.

The published file (pt_inception-2015-12-05-6726825d.pth) is a pickle, which is never opened here: `CONVERT` it once,
where PyTorch is installed.
"""

import hashlib
import http.client
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, UInt8

from gen_jax.errors import CheckpointError, ConfigError, first_line
from gen_jax.features import Features, PyTree, Weights
from gen_jax.io.cache import folder, store
from gen_jax.nets.inception import InceptionV3

SIDE = 299
CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    "s.save_file(torch.load('W.pth', weights_only=True), 'W.safetensors')\""
)
LEAVES = {
    ("conv", "kernel"): "conv.weight",
    ("bn", "scale"): "bn.weight",
    ("bn", "bias"): "bn.bias",
    ("bn", "mean"): "bn.running_mean",
    ("bn", "var"): "bn.running_var",
    ("fc", "kernel"): "weight",
}


def resize(image: UInt8[Array, "B H W C"], side: int = SIDE) -> Float[Array, "B S S C"]:
    """Bilinear as TensorFlow 1 does it (output i reads input i * in / out, no half pixels); float32 0 .. 255."""
    x = image.astype(jnp.float32)
    for axis in (1, 2):
        size = x.shape[axis]
        place = np.arange(side, dtype=np.float32) * np.float32(size / side)
        low = place.astype(np.int32)
        share = (place - low).reshape([-1 if i == axis else 1 for i in range(4)])
        below, above = (jnp.take(x, index, axis) for index in (low, np.minimum(low + 1, size - 1)))
        x = below + (above - below) * share
    return x


def apply(variables: PyTree, image: UInt8[Array, "B H W C"]) -> tuple[Float[Array, "B 2048"], Float[Array, "B 1008"]]:
    """Features and logits; grey images count as three equal channels."""
    x = (resize(image) - 128) / 128
    return InceptionV3().apply(variables, jnp.broadcast_to(x, (*x.shape[:3], 3)))  # pyright: ignore


def layout() -> dict[tuple[str, ...], tuple[str, tuple[int, ...]]]:
    """Path of each of our variables -> pytorch-fid's name of it and shape there."""
    shapes = jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((1, 75, 75, 3)))
    found = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        size: tuple[int, ...] = leaf.shape  # pyright: ignore[reportAttributeAccessIssue]
        names = [*path[1:-1], LEAVES[path[-2:]]] if path[-2] == "fc" else [*path[1:-2], LEAVES[path[-2:]]]
        shape = (size[3], size[2], *size[:2]) if len(size) == 4 else size[::-1]
        found[path] = ".".join(names), shape
    return found


def convert(tensors: Mapping[str, np.ndarray]) -> PyTree:
    """Linen variables from tensors by pytorch-fid's names.

    Raises:
      CheckpointError: names the tensor that is missing, left over, or of another shape.
    """
    left = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    left.pop("fc.bias", None)
    found = {}
    for path, (name, shape) in layout().items():
        if name not in left:
            raise CheckpointError(f"there is no tensor {name}")
        value = left.pop(name)
        if value.shape != shape:
            raise CheckpointError(f"{name}: the file has {list(value.shape)}, InceptionV3 {list(shape)}")
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T  # [out, in, h, w] -> [h, w, in, out]
        found[path] = np.ascontiguousarray(value, np.float32)
    if left:
        raise CheckpointError(f"InceptionV3 has no place for {', '.join(sorted(left)[:3])} ({len(left)} tensors)")
    return traverse_util.unflatten_dict(found)


def features(weights: str, sha256: str = "") -> Features:
    """The feature function `inception`; `weights` is a path or an https address, `sha256` that of the file, if known.

    The file is read at once, so that a wrong one ends a run before it trains.

    Raises:
      ConfigError: there is no such file, or it has another hash.
      CheckpointError: it is no safetensors file, or not of this network.
    """
    from safetensors.numpy import load as parse

    if "://" not in weights and not Path(weights).is_file():
        raise ConfigError(f"evals: features.weights: there is no file {weights}")
    sha256 = sha256.lower()
    content = _downloaded(weights, sha256) if "://" in weights else Path(weights).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise ConfigError(f"evals: features.sha256: expected {sha256}, {weights} has {found}")
    try:
        variables = convert(parse(content))
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}") from None
    except Exception as error:
        line = first_line(error)
        raise CheckpointError(f"{weights}: not safetensors ({line}); convert a .pth file by: {CONVERT}") from error
    return Features("inception", f"tf1_bilinear_{SIDE}", apply, lambda: Weights(jax.device_put(variables), found[:12]))


def _downloaded(address: str, sha256: str) -> bytes:
    """The file behind an address, kept in the cache under its hash."""
    path = folder() / f"inception_{sha256}.safetensors"
    if path.is_file() and hashlib.sha256(content := path.read_bytes()).hexdigest() == sha256:
        return content
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(f"evals: features.weights: {address}: {error}") from None
    if hashlib.sha256(content).hexdigest() == sha256:
        store(path, lambda file: file.write(content))
    return content
