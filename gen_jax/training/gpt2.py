"""GPT-2's weights (Radford et al. 2019) from a safetensors file, by the names that Hugging Face gives them.

The file's [in, out] kernels are ours but for `c_attn`, which holds all queries, all keys, all values; ours is ordered
by head. A model that fits has the defaults of `models.transformer.Config`, and `mlp="gelu_tanh"` for equal logits.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gen_jax.core import lora
from gen_jax.core.state import State, combine, path_name
from gen_jax.errors import CheckpointError, ConfigError, first_line

TOP = {
    "token/embedding": "wte.weight",
    "position/embedding": "wpe.weight",
    "norm/scale": "ln_f.weight",
    "norm/bias": "ln_f.bias",
    "logits/kernel": "lm_head.weight",  # [V, D]
}
MODULES = {
    "attention_norm": "ln_1",
    "attention/qkv": "attn.c_attn",
    "attention/out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp/up": "mlp.c_fc",
    "mlp/down": "mlp.c_proj",
}
BUFFERS = r"h\.\d+\.attn\.(masked_)?bias"  # the causal mask


def load_into(state: State, path: epath.PathLike, heads: int, reset: Sequence[str] = ()) -> State:
    """A state whose network `net` has the file's parameters; low-rank updates stay as they are.

    Args:
      state: a new one of `models.transformer`; optimizer state and step stay, averages start from what was loaded.
      path: the file.
      heads: of the attention; the parameters do not say it.
      reset: regexes on `net/params/<path>`: a leaf that one matches in full keeps its value, whatever the file has.

    Raises:
      CheckpointError: the file is not readable, or tensors are missing, left over, or of another shape.
    """
    net = state.nets["net"]
    plain, updates = lora.split(net.params)

    def kept(name: str) -> bool:
        return any(re.fullmatch(rule, f"net/params/{name}") for rule in reset)

    leaves = {path_name(key): leaf for key, leaf in jax.tree_util.tree_leaves_with_path(plain)}
    shapes = {name: None if kept(name) else leaf.shape for name, leaf in leaves.items()}
    try:
        found = convert(read(path), shapes, heads)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None

    def placed(key: tuple, leaf: jax.Array) -> jax.Array | None:
        if path_name(key) not in found:
            return None
        values = found[path_name(key)].astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])

    params = lora.join(combine(jax.tree_util.tree_map_with_path(placed, plain), plain), updates)
    ema = None if net.ema is None else net.ema | jax.tree.map(jnp.copy, {"params": params, "stats": net.stats})
    return dataclasses.replace(state, nets={**state.nets, "net": dataclasses.replace(net, params=params, ema=ema)})


def check(path: epath.PathLike, model_name: str) -> None:
    """Raises ConfigError if there is no file, or another model."""
    if model_name != "transformer":
        raise ConfigError(f"config.init_from.safetensors: expected the model transformer, got {model_name}")
    if not Path(path).expanduser().is_file():  # a pipe is none for pathlib, but for epath
        raise ConfigError(f"config.init_from.safetensors: there is no file {path}")


def convert(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...] | None], heads: int
) -> dict[str, Any]:
    """Our parameters by path from tensors by Hugging Face's names, with or without the prefix `transformer.`.

    Args:
      tensors: each is used once; the buffers of the mask are left out, and so is `lm_head.weight` where it equals
        `wte.weight` and the model ties them.
      shapes: path -> shape of our parameters, layers apart or stacked; None of one that is not asked for.
      heads: of the attention.

    Raises:
      CheckpointError: names the tensor that is missing, left over, or of another shape.
    """
    left = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    left = {name: value for name, value in left.items() if not re.fullmatch(BUFFERS, name)}
    table, head = left.get("wte.weight"), left.get("lm_head.weight")
    if "logits/kernel" not in shapes and head is not None and table is not None and np.array_equal(table, head):
        del left["lm_head.weight"]

    def take(path: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in left:
            raise CheckpointError(f"there is no tensor {name} for {path} {list(shape)}")
        value = _ours(path, left.pop(name), heads)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise CheckpointError(f"{name}: expected floats, the file has {value.dtype}")
        if value.shape != shape:
            raise CheckpointError(f"{name}: the file has {list(value.shape)} for {path}, the model {list(shape)}")
        return value

    found = {}
    for path, shape in shapes.items():
        name = _name(path)
        if shape is None:
            pattern = re.compile(re.escape(name or "").replace(r"\*", r"\d+"))
            left = {other: value for other, value in left.items() if not pattern.fullmatch(other)}
        elif name is None:
            raise CheckpointError(f"GPT-2 has no {path}")
        elif "*" in name:
            found[path] = np.stack([take(path, name.replace("*", str(i)), shape[1:]) for i in range(shape[0])])
        else:
            found[path] = take(path, name, shape)
    if left:
        raise CheckpointError(f"the model has no place for {', '.join(sorted(left)[:3])} ({len(left)} tensors)")
    return found


def _name(path: str) -> str | None:
    """The file's name for a parameter, `*` for the number of a layer where layers are stacked; None if it has none."""
    parts = re.fullmatch(r"blocks/(?:block_(\d+)|layers)/(.*)/(kernel|scale|bias)", path)
    if path in TOP or parts is None:
        return TOP.get(path)
    layer, module, leaf = parts.groups()
    return f"h.{layer or '*'}.{MODULES[module]}.{'bias' if leaf == 'bias' else 'weight'}" if module in MODULES else None


def _ours(path: str, value: np.ndarray, heads: int) -> np.ndarray:
    """A tensor in our layout."""
    if path == "logits/kernel":
        return value.T
    if "/qkv/" in path and value.shape[-1] % (3 * heads) == 0:
        # [..., 3, N, H] -> [..., N, 3, H]
        apart = value.reshape(*value.shape[:-1], 3, heads, -1)
        return np.moveaxis(apart, -3, -2).reshape(value.shape)
    return value


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    try:
        return load_file(str(path))
    except Exception as error:
        raise CheckpointError(f"not readable as safetensors: {first_line(error)}") from error


def huggingface_config(cfg: Any) -> dict[str, Any]:
    """`transformers.GPT2Config` of a `models.transformer.Config`.

    Raises:
      ConfigError: the model has not the shape of GPT-2; names the field.
    """
    wanted = dict(norm="layer", position="learned", qk_norm=False, end=None)
    for name, value in (wanted | {"kv_heads": cfg.heads}).items():
        if getattr(cfg, name) != value and not (name == "kv_heads" and cfg.kv_heads == 0):
            raise ConfigError(f"config.model.{name}: expected {value!r}, as GPT-2 has, got {getattr(cfg, name)!r}")
    if cfg.mlp == "swiglu":
        raise ConfigError("config.model.mlp: expected 'gelu' or 'gelu_tanh', as GPT-2 has, got 'swiglu'")
    return dict(
        model_type="gpt2",
        architectures=["GPT2LMHeadModel"],
        vocab_size=cfg.vocab,
        n_positions=cfg.context,
        n_embd=cfg.width,
        n_layer=cfg.layers,
        n_head=cfg.heads,
        n_inner=cfg.mlp_width or 4 * cfg.width,
        activation_function={"gelu": "gelu", "gelu_tanh": "gelu_new"}[cfg.mlp],
        layer_norm_epsilon=1e-5,
        resid_pdrop=cfg.dropout,
        embd_pdrop=cfg.dropout,
        attn_pdrop=cfg.dropout,
        tie_word_embeddings=cfg.tied,
        bos_token_id=cfg.start,
        eos_token_id=None,
    )


def to_huggingface(params: Mapping[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
    """Undoes `convert`: our parameters by path to tensors by Hugging Face's names, with the prefix `transformer.`.

    A model without biases gets those that GPT-2 has, of zeros.
    """
    found: dict[str, np.ndarray] = {}
    for path, value in params.items():
        name = _name(path)
        if name is None:
            raise ConfigError(f"config.model: GPT-2 has no {path}")
        layers = {name.replace("*", str(i)): layer for i, layer in enumerate(value)} if "*" in name else {name: value}
        for one, layer in layers.items():
            full = one if one.startswith("lm_head.") else f"transformer.{one}"
            found[full] = np.ascontiguousarray(_theirs(path, layer, heads))
    for name in [name for name in found if re.search(r"\.(ln_\w|c_\w+)\.weight$", name)]:
        found.setdefault(name.removesuffix("weight") + "bias", np.zeros(found[name].shape[-1], found[name].dtype))
    return found


def _theirs(path: str, value: np.ndarray, heads: int) -> np.ndarray:
    """Undoes `_ours`."""
    if path == "logits/kernel":
        return value.T
    if "/qkv/" in path:
        apart = value.reshape(*value.shape[:-1], heads, 3, -1)
        return np.moveaxis(apart, -2, -3).reshape(value.shape)  # [..., N, 3, H] -> [..., 3, N, H]
    return value
