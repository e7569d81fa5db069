"""GPT-2 (Radford et al. 2019) in NumPy float64, by Hugging Face's names; independent of gen_jax."""

import numpy as np


def random_tensors(layers, width, vocab, context, seed=0):
    """Float32 weights of a small model; larger than GPT-2's initial ones, so that every part matters."""
    rng = np.random.default_rng(seed)

    def draw(*shape, around=0.0):
        return (around + 0.2 * rng.standard_normal(shape)).astype(np.float32)

    tensors = {"wte.weight": draw(vocab, width), "wpe.weight": draw(context, width)}
    for i in range(layers):
        for norm in ("ln_1", "ln_2"):
            tensors |= {f"h.{i}.{norm}.weight": draw(width, around=1.0), f"h.{i}.{norm}.bias": draw(width)}
        sizes = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
        sizes |= {"mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width)}
        for name, (rows, columns) in sizes.items():
            tensors |= {f"h.{i}.{name}.weight": draw(rows, columns), f"h.{i}.{name}.bias": draw(columns)}
    return tensors | {"ln_f.weight": draw(width, around=1.0), "ln_f.bias": draw(width)}


def logits(tensors, tokens, heads):
    """[B, T, V] of the token after each of `tokens` [B, T]."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(x, name):
        batch, length, width = x.shape
        split = linear(x, f"{name}.c_attn").reshape(batch, length, 3, heads, width // heads)
        q, k, v = (split[:, :, i].transpose(0, 2, 1, 3) for i in range(3))  # [B, N, T, H]
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(width // heads)
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        return linear(mixed.transpose(0, 2, 1, 3).reshape(batch, length, width), f"{name}.c_proj")

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = w["wte.weight"][tokens] + w["wpe.weight"][: tokens.shape[1]]
    for i in range(sum(name.endswith("ln_1.weight") for name in w)):
        x = x + attention(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn")
        x = x + linear(gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")), f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T
