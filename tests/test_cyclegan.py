"""CycleGAN: losses and buffer against NumPy, what each step may move, networks of known reach."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core.gradients import Gradients, Optimizer
from gen_jax.core.state import Net
from gen_jax.models import cyclegan
from gen_jax.parallel import sharding

ROOT = jax.random.key(0)

SHAPE = (4, 4, 3)


class Colours(nn.Module):
    """A linear map of the colours of each pixel."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


class Pixels(nn.Module):
    """A logit a pixel, linear in its colour."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x)[..., 0]


@functools.cache
def linear(identity=1.5, cycle=3.0, micro_batches=1, **fields):
    """A CycleGAN of linear networks that plain SGD moves by its gradients."""
    optimizer = Optimizer(optax.sgd(1.0), gradients=Gradients(micro_batches))
    model = cyclegan.from_config(
        cyclegan.Config(image=SHAPE, cycle=cycle, identity=identity, buffer=2, stages=1, critic_stages=1, kernel=3),
        dict.fromkeys(cyclegan.NETS, optimizer),
    )
    return dataclasses.replace(model, generator=Colours(), critic=Pixels(), **fields)


def batch_of(rows=4, seed=0):
    a, b = np.random.default_rng(seed).integers(0, 256, (2, rows, *SHAPE), np.uint8)
    return {
        "image_a": jnp.asarray(a),
        "image_b": jnp.asarray(b),
        "index": jnp.arange(rows),
        "valid": jnp.ones(rows, bool),
    }


def weights(state):
    return {
        name: [np.asarray(net.params["Dense_0"][leaf], np.float64) for leaf in ("kernel", "bias")]
        for name, net in state.nets.items()
    }


def written_out(nets, batch, cycle, identity):
    """Equations 1 to 3 and 5.2 with least squares, in NumPy: everything that is measured, [B] each."""
    a, b = (np.asarray(batch[name], np.float64) / 127.5 - 1 for name in ("image_a", "image_b"))

    def apply(name, x):
        return x @ nets[name][0] + nets[name][1]

    def l1(x, y):
        return np.abs(x - y).mean((1, 2, 3))

    fake_b, fake_a = apply("gen_ab", a), apply("gen_ba", b)
    logits = {
        name: apply(f"disc_{name[-1]}", x)[..., 0] for name, x in dict(a=a, b=b, fake_a=fake_a, fake_b=fake_b).items()
    }
    terms = {
        "adversarial": sum(((logits[f"fake_{d}"] - 1) ** 2).mean((1, 2)) / 2 for d in "ab"),
        "cycle_a": l1(apply("gen_ba", fake_b), a),
        "cycle_b": l1(apply("gen_ab", fake_a), b),
        "identity_a": l1(apply("gen_ba", a), a),
        "identity_b": l1(apply("gen_ab", b), b),
    }
    terms["generator_loss"] = (
        terms["adversarial"]
        + cycle * (terms["cycle_a"] + terms["cycle_b"])
        + identity * (terms["identity_a"] + terms["identity_b"])
    )
    for d in "ab":
        terms[f"disc_{d}_loss"] = (((logits[d] - 1) ** 2 + logits[f"fake_{d}"] ** 2) / 2).mean((1, 2))
        terms[f"logit_gap_{d}"] = (logits[d] - logits[f"fake_{d}"]).mean((1, 2))
        slope = np.abs(logits[d] - 1) + np.abs(logits[f"fake_{d}"])  # 1 where both logits are 0
        terms[f"critic_saturation_{d}"] = (slope <= 0.01).mean((1, 2))
    return terms, {"a": fake_a, "b": fake_b}


def test_every_term_equals_numpys():
    model, batch = linear(), batch_of()
    state = model.init(ROOT, batch)
    found = model.eval_step(state, batch, ROOT)
    expected, fakes = written_out(weights(state), batch, 3.0, 1.5)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].total, values, rtol=1e-5, err_msg=name)
    _, made = model.generator_terms({name: net.variables for name, net in state.nets.items()}, batch)
    for domain, fake in fakes.items():
        np.testing.assert_allclose(made[domain], fake, rtol=1e-4, atol=1e-5)


def test_gradients_of_both_generators_are_those_of_the_whole_loss():
    """By differences of the NumPy loss, at every parameter of both."""
    model, batch = linear(), batch_of()
    state = model.init(ROOT, batch)
    after, _, _ = jax.jit(model.generators_step)(state.nets, batch, ROOT)
    nets, eps = weights(state), 1e-6
    for name in ("gen_ab", "gen_ba"):
        for i, leaf in enumerate(("kernel", "bias")):
            moved = np.asarray(state.nets[name].params["Dense_0"][leaf] - after[name].params["Dense_0"][leaf])
            for place in np.ndindex(moved.shape):
                sides = []
                for sign in (1, -1):
                    nets[name][i][place] += sign * eps
                    sides.append(written_out(nets, batch, 3.0, 1.5)[0]["generator_loss"].mean())
                    nets[name][i][place] -= sign * eps
                assert moved[place] == pytest.approx((sides[0] - sides[1]) / (2 * eps), rel=1e-3, abs=1e-4)


def with_weights(net, kernel, bias):
    return net.replace(params={"Dense_0": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}})


def test_a_map_and_its_inverse_have_no_cycle_error_and_the_identity_none_at_all():
    model, batch = linear(), batch_of()
    state = model.init(ROOT, batch)
    kernel, bias = np.array([[0, 0, -1], [-1, 0, 0], [0, -1, 0]], np.float32), np.array([0.5, 0, -0.5], np.float32)
    inverse = np.linalg.inv(kernel)
    known = {"gen_ab": (kernel, bias), "gen_ba": (inverse, -bias @ inverse)}
    nets = state.nets | {name: with_weights(state.nets[name], *parts) for name, parts in known.items()}
    means = model.eval_step(state.replace(nets=nets), batch, ROOT)
    assert max(float(means[f"cycle_{d}"].total.max()) for d in "ab") < 1e-6
    assert min(float(means[f"identity_{d}"].total.min()) for d in "ab") > 0.1
    nets = state.nets | {name: with_weights(state.nets[name], np.eye(3), np.zeros(3)) for name in known}
    means = model.eval_step(state.replace(nets=nets), batch, ROOT)
    assert all(float(means[f"{kind}_{d}"].total.max()) == 0 for kind in ("cycle", "identity") for d in "ab")


def test_saturation_is_the_share_of_patches_where_the_critic_is_sure():
    """A critic that gives 1 to white and 0 to black, of fakes all black, and images of one white row in four."""
    model, batch = linear(), batch_of()
    state, white = model.init(ROOT, batch), jnp.zeros((4, *SHAPE), jnp.uint8).at[:, 0].set(255)
    known = {"gen_ab": (np.zeros((3, 3)), np.full(3, -1.0)), "disc_b": (np.full((3, 1), 1 / 6), np.full(1, 0.5))}
    nets = state.nets | {name: with_weights(state.nets[name], *parts) for name, parts in known.items()}
    means = model.eval_step(state.replace(nets=nets), batch | {"image_b": white}, ROOT)
    for name in ("critic_saturation_b", "logit_gap_b"):
        np.testing.assert_allclose(means[name].total, 0.25, rtol=1e-6)


def same(x, y):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))


def test_each_step_returns_only_what_it_moves():
    model, batch = linear(), batch_of()
    state = model.init(ROOT, batch)
    gens, means, _ = jax.jit(model.generators_step)(state.nets, batch, ROOT)
    assert gens.keys() == {"gen_ab", "gen_ba"}
    assert not any(same(gens[name].params, state.nets[name].params) for name in gens)
    assert "loss" not in means
    x = jnp.ones((4, *SHAPE))
    disc, means = model.critic_step("disc_b", state.nets["disc_b"], x, x, ROOT)
    assert isinstance(disc, Net)
    assert means.keys() == {"disc_b_loss", "logit_gap_b", "critic_saturation_b", "disc_b_grad_norm"}


def test_a_train_step_is_its_parts_written_out():
    """The critics see fakes from before the generators moved, through the buffer of their domain."""
    model, batch = linear(), batch_of()
    state = model.init(ROOT, batch)
    state = state.replace(carry=jax.tree.map(lambda x: x + 0.25, state.carry), step=jnp.int32(5))
    after, means = jax.jit(model.train_step)(state, batch, ROOT)
    rng, *keys = jax.random.split(jax.random.fold_in(ROOT, 5), 3)
    expected, _, fakes = jax.jit(model.generators_step)(state.nets, batch, rng)
    reals = cyclegan._domains(batch)
    for domain, real, key in zip("ab", reals, keys, strict=True):
        shown, buffer = cyclegan.exchange(state.carry[domain], fakes[domain], jnp.int32(5), key)
        np.testing.assert_array_equal(after.carry[domain], buffer)
        expected[f"disc_{domain}"], _ = model.critic_step(
            f"disc_{domain}", state.nets[f"disc_{domain}"], real, shown, key
        )
    for name, net in expected.items():
        for a, b in zip(jax.tree.leaves(after.nets[name].params), jax.tree.leaves(net.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert int(after.step) == 6
    for name, mean in means.items():
        assert float(mean.weight) == (1 if name.endswith("_grad_norm") else 4), name
    for name in cyclegan.NETS:  # plain SGD at rate 1
        moved = jax.tree.map(jnp.subtract, state.nets[name].params, after.nets[name].params)
        np.testing.assert_allclose(means[f"{name}_grad_norm"].total, optax.tree.norm(moved), rtol=1e-4)


def test_accumulated_gradients_and_fakes_are_those_of_the_whole_batch():
    whole, parts, batch = linear(), linear(micro_batches=2), batch_of()
    state = whole.init(ROOT, batch)
    one, two = (jax.jit(model.train_step)(state, batch, ROOT)[0] for model in (whole, parts))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_buffer_against_lists():
    """Rows of lists, moved by the same draws: filled first, then a swap or none."""
    rows, size, steps = 16, 3, 60
    fakes = np.random.default_rng(0).normal(size=(steps, rows, 1, 1, 1)).astype(np.float32)
    buffer, lists, swaps = jnp.zeros((rows, size, 1, 1, 1)), [[] for _ in range(rows)], 0
    exchange = jax.jit(cyclegan.exchange)
    for step, (fake, key) in enumerate(zip(fakes, jax.random.split(ROOT, steps), strict=True)):
        shown, buffer = exchange(buffer, fake, jnp.int32(step), key)
        swap_rng, place_rng = jax.random.split(key)
        swap = np.asarray(jax.random.bernoulli(swap_rng, 0.5, (rows,)))
        place = np.asarray(jax.random.randint(place_rng, (rows,), 0, size))
        for i, past in enumerate(lists):
            expected = fake[i]
            if len(past) < size:
                past.append(fake[i])
            elif swap[i]:
                expected, past[place[i]] = past[place[i]], fake[i]
                swaps += 1
            np.testing.assert_array_equal(shown[i], expected)
            kept = np.stack([*past, *[np.zeros((1, 1, 1))] * (size - len(past))])
            np.testing.assert_array_equal(buffer[i], kept)
    draws = rows * (steps - size)
    assert abs(swaps / draws - 0.5) < 4 * 0.5 / draws**0.5


def test_rows_cut_over_devices_exchange_without_communication():
    placed = sharding.rows(sharding.make_mesh(sharding.MeshConfig(data=8)))
    buffer, fake = jnp.zeros((16, 3, *SHAPE)), jnp.ones((16, *SHAPE))
    exchange = jax.jit(cyclegan.exchange, in_shardings=(placed, placed, None, None), out_shardings=placed)
    text = exchange.lower(buffer, fake, jnp.int32(5), ROOT).compile().as_text()
    assert not re.search("all-|collective|reduce-scatter", text)


def test_translation_is_by_the_averaged_generator_of_the_direction():
    model = dataclasses.replace(linear(), optimizers=(Optimizer(optax.sgd(1.0), ema_decay=0.5),) * 4)
    batch = batch_of()
    state = model.init(ROOT, batch)
    for name, shift in (("gen_ab", 0.2), ("gen_ba", -0.2)):
        averaged = {"Dense_0": {"kernel": jnp.eye(3), "bias": jnp.full(3, shift)}}
        net = state.nets[name].replace(ema={"params": averaged, "stats": {}})
        state = state.replace(nets=state.nets | {name: net})
    images = batch["image_a"]
    for direction, shift in (("a2b", 25.5), ("b2a", -25.5)):
        found = np.asarray(model.translate_images(state, images, direction), float)
        assert np.abs(found - np.clip(images + shift, 0, 255)).max() <= 0.51
