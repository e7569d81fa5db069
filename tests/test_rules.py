"""Three updates of each rule against the rule written out in numpy; scanned layers against unrolled ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from members import smoke

from gen_jax.core import optim, rules
from gen_jax.core.leaves import Leaf
from gen_jax.core.state import path_name
from gen_jax.models import transformer
from gen_jax.training.program import Program

LR, DECAY = 0.1, 0.3
SHAPES = {"kernel": (4, 6), "bias": (5,)}


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def trained(params, grads, **fields):
    """`params` after an update with each of `grads`."""
    tx = optim.transform(optim.Config(lr=LR, **fields), len(grads))
    state = tx.init(params)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


def adam(w, gs, decay, l2=0.0, b1=0.8, b2=0.7, eps=0.3, lr=LR):
    """Kingma & Ba 2015, algorithm 1; `decay` decoupled as in Loshchilov & Hutter 2019, `l2` in the gradient."""
    m = v = 0.0
    for t, g in enumerate(gs, start=1):
        g = g + l2 * w
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w - lr * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * w)
    return w


def sgd(w, gs, decay, momentum=0.6):
    trace = 0.0
    for g in gs:
        trace = g + decay * w + momentum * trace
        w = w - LR * trace
    return w


def lion(w, gs, decay, b1=0.9, b2=0.99):
    """Chen et al. 2023, algorithm 2."""
    m = 0.0
    for g in gs:
        w = w - LR * (np.sign(b1 * m + (1 - b1) * g) + decay * w)
        m = b2 * m + (1 - b2) * g
    return w


def adafactor(w, gs, decay):
    """Shazeer & Stern 2018, algorithm 5 for what is not factored: matrices below 128, vectors."""
    v = 0.0
    for t, g in enumerate(gs, start=1):
        g = g + decay * w
        b2 = 1 - t**-0.8
        v = b2 * v + (1 - b2) * g**2
        u = g / np.sqrt(v)
        u = u / max(1.0, np.sqrt(np.mean(u**2)))
        w = w - LR * max(1e-3, np.sqrt(np.mean(w**2))) * u
    return w


def newton_schulz(x):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / np.linalg.norm(x)
    for _ in range(5):
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
    return x


def muon(w, gs, decay, beta=0.95):
    """Jordan et al. 2024 with corrected bias; the RMS of a step is 0.2 (Liu et al. 2025)."""
    m = 0.0
    for t, g in enumerate(gs, start=1):
        m = beta * m + (1 - beta) * g
        ahead = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
        w = w - LR * (0.2 * np.sqrt(max(w.shape)) * newton_schulz(ahead) + decay * w)
    return w


BETAS = dict(b1=0.8, b2=0.7, eps=0.3)
# fields -> the rule of a kernel, the rule of a bias
CASES = [
    (dict(name="sgd"), lambda w, gs, decay: sgd(w, gs, decay, 0.0), None),
    (dict(name="sgd", momentum=0.6), sgd, None),
    (dict(name="adam", **BETAS), lambda w, gs, decay: adam(w, gs, 0.0, decay), None),
    (dict(name="adam"), lambda w, gs, decay: adam(w, gs, 0.0, decay, 0.9, 0.999, 1e-8), None),
    (dict(name="adamw", **BETAS), adam, None),
    (dict(name="lion"), lion, None),
    (dict(name="lion", b1=0.5, b2=0.6), lambda w, gs, decay: lion(w, gs, decay, 0.5, 0.6), None),
    (dict(name="adafactor"), adafactor, None),
    (dict(name="muon", adam_lr=0.02, **BETAS), muon, lambda w, gs, decay: adam(w, gs, 0.0, lr=0.02)),
    (
        dict(name="muon", momentum=0.5),
        lambda *a: muon(*a, 0.5),
        lambda w, gs, _: adam(w, gs, 0.0, 0.0, 0.9, 0.999, 1e-8),
    ),
]


@pytest.mark.parametrize(("fields", "kernel", "bias"), CASES)
def test_three_updates_are_those_of_the_rule_written_out(fields, kernel, bias):
    params = {name: normal(i, shape) for i, (name, shape) in enumerate(SHAPES.items())}
    grads = [{name: normal(10 * t + i, shape) for i, (name, shape) in enumerate(SHAPES.items())} for t in range(1, 4)]
    after = trained(params, grads, weight_decay=DECAY, **fields)
    for name, rule, decay in (("kernel", kernel, DECAY), ("bias", bias or kernel, 0.0)):
        want = rule(np.asarray(params[name], np.float64), [np.asarray(g[name], np.float64) for g in grads], decay)
        np.testing.assert_allclose(after[name], want, rtol=2e-4, atol=2e-5)


def test_muon_moves_a_matrix_as_optax_does_and_leaves_tables_and_heads_to_adamw():
    paths = {"up": {"kernel": (8, 4)}, "Conv_0": {"kernel": (3, 3, 2, 5)}, "token": {"embedding": (9, 4)}}
    paths |= {"logits": {"kernel": (4, 9)}, "norm": {"scale": (4,)}}
    params = jax.tree.map(lambda s: normal(sum(s), s), paths, is_leaf=lambda s: isinstance(s, tuple))
    grads = [jax.tree.map(lambda x, t=t: normal(t + x.size, x.shape), params) for t in range(3)]
    after = trained(params, grads, name="muon", adam_weight_decay=DECAY, **BETAS)
    numbers = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    dims = {"up": {"kernel": optax.contrib.MuonDimensionNumbers()}, "Conv_0": {"kernel": numbers}}
    tx = optax.contrib.muon(LR, consistent_rms=0.2, muon_weight_dimension_numbers=dims)
    hidden = want = {name: params[name] for name in dims}
    state = tx.init(hidden)
    for grad in grads:
        updates, state = tx.update({name: grad[name] for name in dims}, state, want)
        want = optax.apply_updates(want, updates)
    for name in dims:
        np.testing.assert_allclose(after[name]["kernel"], want[name]["kernel"], rtol=1e-4, atol=1e-5)
    for name, leaf, decay in (("token", "embedding", DECAY), ("logits", "kernel", DECAY), ("norm", "scale", 0.0)):
        want = adam(params[name][leaf], [grad[name][leaf] for grad in grads], decay)
        np.testing.assert_allclose(after[name][leaf], want, rtol=1e-4, atol=1e-5)


def test_each_matrix_side_by_side_is_made_orthogonal_by_itself():
    x = normal(0, (2, 8, 6))
    step = rules.orthogonal_step(Leaf("matrix", stacked=True, blocks=3), x, 0.0)
    for layer in range(2):
        for i in range(3):
            part = slice(2 * i, 2 * i + 2)
            want = newton_schulz(np.asarray(x[layer, :, part].T, np.float64)).T
            np.testing.assert_allclose(step[layer, :, part], want, rtol=1e-3, atol=1e-4)
    values = np.linalg.svd(step[0, :, :2], compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.3


@pytest.fixture(scope="module")
def both():
    """Parameters and 3 gradients of a transformer, unrolled and scanned: the same numbers."""
    sizes = dict(vocab=16, context=8, layers=2, heads=2, width=128, tied=False)
    unrolled, scanned = (transformer.Config(**sizes, scan_layers=scan) for scan in (False, True))
    net = transformer.from_config(unrolled, {"net": optim.build(optim.Config(), 3)}).network
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    trees = [jax.tree.map(lambda x, t=t: normal(t + x.size, x.shape) + 0.1, shapes) for t in range(4)]
    for tree in trees:  # layers whose gradients have unlike sizes
        tree["blocks"]["block_1"] = jax.tree.map(lambda x: 5 * x[::-1], tree["blocks"]["block_1"])
    return (unrolled, trees), (scanned, [stacked(tree) for tree in trees])


def stacked(tree):
    layers = [tree["blocks"][f"block_{i}"] for i in range(2)]
    return tree | {"blocks": {"layers": jax.tree.map(lambda *xs: jnp.stack(xs), *layers)}}


@pytest.mark.parametrize("name", optim.RULES)
def test_scanned_layers_move_as_unrolled_ones(name, both):
    after = []
    for cfg, (params, *grads) in both:
        tx = optim.transform(optim.Config(name=name, lr=LR, weight_decay=DECAY, clip=1e3), 3, 1, cfg.fused)
        step, state = jax.jit(tx.update), tx.init(params)
        for grad in grads:
            updates, state = step(grad, state, params)
            params = optax.apply_updates(params, updates)
        after.append(params)
    unrolled, scanned = jax.tree_util.tree_leaves_with_path(stacked(after[0])), jax.tree.leaves(after[1])
    for (path, want), found in zip(unrolled, scanned, strict=True):
        np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-5, err_msg=path_name(path))


# config, flags of its model, the path of a kernel, how many matrices it holds side by side; all have 2 heads
FUSED = [
    ("transformer/shakespeare_char_cpu.py", (), "blocks/block_1/attention/qkv/kernel", 6),
    (
        "transformer/shakespeare_char_cpu.py",
        ("kv_heads=1", "scan_layers=True"),
        "blocks/layers/attention/qkv/kernel",
        4,
    ),
    ("transformer/shakespeare_char_cpu.py", (), "blocks/block_1/attention/out/kernel", 1),
    ("transformer/digits_pixels.py", (), "blocks/block_0/attention/qkv/kernel", 6),
    ("vqvae/prior.py", (), "blocks/block_0/attention/qkv/kernel", 6),
    ("encoder_decoder/reversal.py", (), "encoder/block_0/attention/qkv/kernel", 6),
    ("encoder_decoder/reversal.py", (), "decoder_0/cross/kv/kernel", 4),
    ("encoder_decoder/reversal.py", (), "decoder_0/cross/q/kernel", 2),
    ("lstm/markov.py", (), "layers_0/recurrent", 4),
    ("lstm/markov.py", ("cell=gru",), "layers_0/input/kernel", 3),
    ("wavenet/spoken_digit.py", (), "wavenet/layers_0/conv/dense/kernel", 2),
]


@pytest.mark.parametrize(("config", "flags", "path", "blocks"), FUSED)
def test_muon_of_a_config_makes_each_matrix_side_by_side_orthogonal(config, flags, path, blocks):
    muon = {"name": "muon", "lr": LR, "warmup": 0, "weight_decay": 0.0, "clip": 0.0}
    program = Program(smoke(f"experiments/{config}", f"optim.net={muon}", *(f"model.{flag}" for flag in flags)))
    leaves = jax.tree_util.tree_leaves_with_path(program.shapes.nets["net"].params)
    (shape,) = (leaf.shape for key, leaf in leaves if path_name(key) == path)
    grad: dict = {"": normal(0, shape)}
    for name in reversed(path.split("/")):
        grad = {name: grad.pop("", grad)}
    tx = program.model.optimizer.tx
    updates, _ = jax.jit(tx.update)(grad, tx.init(grad), grad)
    (found,), (whole,) = jax.tree.leaves(updates), jax.tree.leaves(grad)
    layers = zip(found.reshape(-1, *shape[-2:]), np.asarray(whole, np.float64).reshape(-1, *shape[-2:]), strict=True)
    for update, matrices in layers:
        parts = [newton_schulz(part) for part in np.split(matrices, blocks, axis=1)]
        want = -LR * 0.2 * np.sqrt(max(parts[0].shape)) * np.concatenate(parts, axis=1)
        np.testing.assert_allclose(update, want, rtol=1e-3, atol=1e-4)
