"""VAE-GAN: the losses of algorithm 1 against NumPy, and who gets which gradient."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core import ops
from gen_jax.core.gradients import Optimizer
from gen_jax.core.state import Net
from gen_jax.errors import ConfigError
from gen_jax.models import vaegan
from gen_jax.settings import validate

ROOT, SHAPE, LATENT = jax.random.key(0), (2, 2, 1), 2


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        mean, log_var = jnp.split(nn.Dense(2 * LATENT)(x.reshape(len(x), -1)), 2, axis=-1)
        return mean, log_var


class Generator(nn.Module):
    @nn.compact
    def __call__(self, z):
        return nn.tanh(nn.Dense(4)(z)).reshape(-1, *SHAPE)


class Critic(nn.Module):
    @nn.compact
    def __call__(self, x):
        features = nn.tanh(nn.Dense(3)(x.reshape(len(x), -1)))
        return features, nn.Dense(1)(features)[:, 0]


@functools.cache
def small(loss="minimax", ema=0.0):
    """A VAE-GAN of single layers that plain SGD moves by its gradients."""
    optimizer = Optimizer(optax.sgd(1.0), ema_decay=ema)
    cfg = vaegan.Config(image=SHAPE, widths=(4,), critic_widths=(4,), latent=LATENT, gamma=0.3, loss=loss)
    model = vaegan.from_config(cfg, dict.fromkeys(vaegan.NETS, optimizer))
    return dataclasses.replace(model, encoder=Encoder(), generator=Generator(), critic=Critic())


@functools.cache
def start(rows=5):
    image = np.random.default_rng(0).integers(0, 256, (rows, *SHAPE), np.uint8)
    batch = {"image": jnp.asarray(image), "index": jnp.arange(rows), "valid": jnp.ones(rows, bool)}
    return batch, small().init(ROOT, batch)


def weights(state):
    return {
        name: {
            layer: {leaf: np.asarray(value, np.float64) for leaf, value in leaves.items()}
            for layer, leaves in net.params.items()
        }
        for name, net in state.nets.items()
    }


def written_out(nets, batch, noises, loss, gamma=0.3):
    """L_prior, L_llike and L_GAN as algorithm 1 has them, each network's loss from them: [B] each."""
    x = np.asarray(batch["image"], np.float64) / 127.5 - 1

    def dense(name, layer, x):
        return x.reshape(len(x), -1) @ nets[name][layer]["kernel"] + nets[name][layer]["bias"]

    def judge(x):
        features = np.tanh(dense("disc", "Dense_0", x))
        return features, 1 / (1 + np.exp(-dense("disc", "Dense_1", features)[:, 0]))

    mean, log_var = np.split(dense("enc", "Dense_0", x), 2, axis=-1)
    made, fake = (np.tanh(dense("gen", "Dense_0", z)) for z in (mean + np.exp(log_var / 2) * noises[0], noises[1]))
    (f, d), (f_made, d_made), (_, d_fake) = judge(x), judge(made), judge(fake)
    prior = 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var).sum(1)
    llike = 0.5 * ((f - f_made) ** 2).sum(1)
    game = np.log(1 - d_made) + np.log(1 - d_fake)
    return {
        "kl": prior,
        "feature_rec": llike,
        "enc_loss": prior + llike,
        "gen_loss": gamma * llike + (game if loss == "minimax" else -np.log(d_made) - np.log(d_fake)),
        "disc_loss": -(np.log(d) + game),
        "logit_gap": np.log(d / (1 - d)) - np.log(d_fake / (1 - d_fake)),
        "critic_saturation": np.float64(1 - d + d_fake <= 0.01),  # 1 where both logits are 0
    }


@pytest.mark.parametrize("loss", ["minimax", "non_saturating"])
def test_every_term_equals_numpys(loss):
    batch, state = start()
    found = small(loss).eval_step(state, batch, ROOT)
    noises = [
        np.asarray(ops.normal(key, (5, LATENT)), np.float64) for key in ops.split(ops.row_keys(ROOT, batch["index"]), 2)
    ]
    for name, values in written_out(weights(state), batch, noises, loss).items():
        np.testing.assert_allclose(found[name].total, values, rtol=2e-5, err_msg=name)
    disc = state.nets["disc"]
    strong = state.replace(nets=state.nets | {"disc": disc.replace(params=jax.tree.map(lambda x: 30 * x, disc.params))})
    found = small(loss).eval_step(strong, batch, ROOT)["critic_saturation"].total
    expected = written_out(weights(strong), batch, noises, loss)["critic_saturation"]
    assert 0 < expected.sum() < 5
    np.testing.assert_array_equal(found, expected)


def test_each_network_moves_down_its_own_loss_alone():
    """By differences of the NumPy losses at every parameter of the state before; none sees another's update."""
    batch, state = start()
    after, means = jax.jit(small().train_step)(state, batch, ROOT)
    noises = [np.asarray(ops.normal(key, (5, LATENT)), np.float64) for key in ops.split(jax.random.fold_in(ROOT, 0), 2)]
    nets, eps = weights(state), 1e-6
    for name in vaegan.NETS:
        for layer, leaves in nets[name].items():
            for leaf, value in leaves.items():
                moved = np.asarray(state.nets[name].params[layer][leaf] - after.nets[name].params[layer][leaf])
                for place in np.ndindex(value.shape):
                    sides = []
                    for sign in (1, -1):
                        value[place] += sign * eps
                        sides.append(written_out(nets, batch, noises, "minimax")[f"{name}_loss"].mean())
                        value[place] -= sign * eps
                    assert moved[place] == pytest.approx((sides[0] - sides[1]) / (2 * eps), rel=1e-3, abs=1e-5)
        moves = jax.tree.map(jnp.subtract, state.nets[name].params, after.nets[name].params)
        np.testing.assert_allclose(means[f"{name}_grad_norm"].total, optax.tree.norm(moves), rtol=1e-4)
    assert "loss" not in means
    assert {float(mean.weight) for key, mean in means.items() if not key.endswith("_grad_norm")} == {5}


def test_a_step_returns_the_one_network_that_it_moves():
    batch, state = start()
    net, _ = small().net_step("gen", state.nets, batch, ROOT)
    assert isinstance(net, Net)
    assert jax.tree.structure(net) == jax.tree.structure(state.nets["gen"])


def test_evaluation_is_by_the_example_and_the_averages():
    model = small(ema=0.9)
    batch, _ = start()
    state = model.init(ROOT, batch)
    after, _ = jax.jit(model.train_step)(state, batch, ROOT)
    turned = model.eval_step(after, jax.tree.map(lambda x: x[::-1], batch), ROOT)
    for name, mean in model.eval_step(after, batch, ROOT).items():
        np.testing.assert_allclose(mean.total, turned[name].total[::-1], rtol=1e-4, atol=1e-5, err_msg=name)
    first, averaged = (model.encode(s, batch) for s in (state, after))
    live = Encoder().apply(after.nets["enc"].variables, ops.to_signed(batch["image"]))[0]
    assert 0 < float(jnp.abs(averaged - first).max()) < float(jnp.abs(live - first).max())


def test_samples_are_decoded_noise():
    state, model = start()[1], small()
    found = model.sample(state, ROOT, 3, vaegan.Sampling(temperature=0.5))
    expected = model.decode(state, 0.5 * jax.random.normal(ROOT, (3, LATENT)))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == jnp.uint8
    unit = Generator().apply(state.nets["gen"].variables, jnp.zeros((1, LATENT))) / 2 + 0.5
    np.testing.assert_allclose(model.decode(state, jnp.zeros((1, LATENT))) / 255, unit, atol=0.002)


def test_wrong_fields_are_refused():
    with pytest.raises(ConfigError, match=r"config\.model\.critic_widths: expected 1 or more, with image sides div"):
        validate(vaegan.Config, dict(critic_widths=(8, 8, 8)), "config.model")
    with pytest.raises(ConfigError, match=r"config\.model\.loss: expected 'minimax' or 'non_saturating'"):
        validate(vaegan.Config, dict(loss="hinge"), "config.model")
    with pytest.raises(ConfigError, match=r"config\.optim: expected the entries enc, gen, disc, got gen"):
        vaegan.from_config(vaegan.Config(), {"gen": Optimizer(optax.sgd(1.0))})
