"""The GAN: what each step may move, how it counts, its variants, and when its alarm sounds."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gans import ROOT, batch_of, build

from gen_jax.core.gradients import Optimizer
from gen_jax.errors import ConfigError
from gen_jax.models import gan
from gen_jax.models.abilities_base import DecodesNoise, InvertsNoise
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.settings import validate
from gen_jax.training.program import Program
from tests.members import smoke


@functools.cache
def start(loss="wasserstein", n_critic=2, micro_batches=1):
    """A model with a gradient penalty, a batch of 12 rows, its first state."""
    model, batch = build(micro_batches, loss=loss, n_critic=n_critic, penalties={"gradient": 1.0}), batch_of(12)
    return model, batch, jax.jit(model.init)(ROOT, batch)


IMAGES = dict(image=(8, 8, 1), data_dim=0, net="dcgan", widths=(4,), n_critic=1)


def images(rows):
    image = np.random.default_rng(0).integers(0, 256, (rows, 8, 8, 1), np.uint8)
    label = jnp.arange(rows) % 3
    return {"image": jnp.asarray(image), "label": label, "index": jnp.arange(rows), "valid": jnp.ones(rows, bool)}


@functools.cache
def conditional():
    """A conditional DCGAN after one step: the model, its batch, the states before and after."""
    model, batch = build(num_classes=3, critic_norm="spectral", loss="hinge", **IMAGES), images(6)
    state = jax.jit(model.init)(ROOT, batch)
    return model, batch, state, jax.jit(model.train_step)(state, batch, ROOT)[0]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("loss", ["wasserstein", "relativistic"])
def test_each_step_moves_its_own_network_only(loss):
    model, batch, before = start(loss)

    for still, moved in (("gen", "disc"), ("disc", "gen")):
        frozen = dataclasses.replace(model, **{f"{still}_optimizer": Optimizer(optax.set_to_zero())})
        state = before.replace(nets=before.nets | {still: before.nets[still].replace(opt=optax.EmptyState(), ema=None)})
        after, _ = jax.jit(frozen.train_step)(state, batch, ROOT)
        assert same(after.nets[still], state.nets[still])
        assert not same(after.nets[moved].params, state.nets[moved].params)


@pytest.mark.parametrize("n_critic", [1, 3])
def test_counts_of_updates(n_critic):
    model, batch, state = start(n_critic=n_critic)
    for _ in range(2):
        state, means = jax.jit(model.train_step)(state, batch, ROOT)
    counts = {name: int(optax.tree_utils.tree_get(net.opt, "count")) for name, net in state.nets.items()}
    assert counts == {"gen": 2, "disc": 2 * n_critic} and int(state.step) == 2
    assert float(means["critic_loss"].weight) == 12  # every row of the batch is used once
    assert float(means["generator_loss"].weight) == 12 / n_critic


def test_a_train_step_is_its_parts_written_out():
    model, batch, state = start(n_critic=3)
    state = state.replace(step=jnp.int32(5))
    after, _ = jax.jit(model.train_step)(state, batch, ROOT)
    gen, disc = state.nets["gen"], state.nets["disc"]
    noise_rng, critic_rng, gen_rng = jax.random.split(jax.random.fold_in(ROOT, 5), 3)
    noisy = jax.jit(model.with_noise)({"vector": batch["vector"]}, noise_rng)
    thirds = [{name: x[i::3] for name, x in noisy.items()} for i in range(3)]
    for i, key in enumerate(jax.random.split(critic_rng, 3)):
        disc, _ = jax.jit(model.critic_step)(disc, gen, thirds[i], key, jnp.int32(15 + i))
    gen, _ = jax.jit(model.generator_step)(gen, disc, thirds[2], gen_rng, jnp.int32(5))
    for ours, theirs in zip(jax.tree.leaves(after.nets), jax.tree.leaves({"gen": gen, "disc": disc}), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["dcgan", pytest.param("conditional", marks=pytest.mark.slow)])
def test_both_updates_share_one_run_of_the_generator(kind):
    """XLA finds that the critic's fakes are the generator's: each layer is run forward once."""
    program = Program(smoke(f"experiments/gan/mnist.py:kind={kind}", "model.widths=(32, 16)"))
    inputs = program.init(), program.feeder.resident, program.feeder.rows(0)
    step = program.compiled_step.lower(*inputs).compile().as_text()
    forward = re.findall(r" convolution\(.*op_name=\"[^\"]*/jvp\(DCGANGenerator\)/(ConvTranspose_\d)", step)
    assert sorted(forward) == ["ConvTranspose_0", "ConvTranspose_1"]


def test_batch_that_does_not_divide_is_refused():
    model, _, state = start(n_critic=3)
    with pytest.raises(ConfigError, match=r"multiple of model\.n_critic = 3, got 7"):
        model.train_step(state, batch_of(7), ROOT)


def test_accumulated_critic_counts_every_row():
    model, batch, state = start(micro_batches=2)
    _, means = jax.jit(model.train_step)(state, batch, ROOT)
    assert float(means["critic_loss"].weight) == 12


def test_evaluation_depends_on_the_index_not_on_the_batch():
    model, batch, state = start()
    step = jax.jit(model.eval_step)
    whole = step(state, batch, ROOT)
    turned = step(state, jax.tree.map(lambda x: x[::-1], batch) | {"valid": jnp.arange(12) < 7}, ROOT)
    for name in ("critic_loss", "logit_gap", "gradient_penalty"):
        np.testing.assert_allclose(whole[name].total[::-1][:7], turned[name].total[:7], rtol=1e-5, atol=1e-6)
        assert float(turned[name].weight.sum()) == 7


def test_sample_uses_the_averaged_generator():
    model, batch, state = start()
    sample = jax.jit(lambda state: model.sample(state, ROOT, 7, gan.Sampling()))
    after, _ = jax.jit(model.train_step)(state, batch, ROOT)
    live = after.nets["gen"].replace(ema=dict(params=after.nets["gen"].params, stats={}))
    first, averaged, moved = sample(state), sample(after), sample(after.replace(nets=after.nets | {"gen": live}))
    assert averaged.shape == (7, 2) and averaged.dtype == jnp.float32
    assert 0 < float(jnp.abs(averaged - first).max()) < float(jnp.abs(moved - first).max())


def test_samples_are_decoded_from_noise_and_classes_in_turn():
    model, _, _, state = conditional()
    assert isinstance(model, DecodesNoise) and not isinstance(model, InvertsNoise) and model.noise_shape == (4,)
    decode, noise, label = jax.jit(model.decode_noise), jax.random.normal(ROOT, (5, 4)), jnp.arange(5) % 3
    made = jax.jit(lambda: model.sample(state, ROOT, 5, gan.Sampling()))()
    np.testing.assert_array_equal(made, decode(state, noise, label))
    assert made.dtype == jnp.uint8 and made.shape == (5, 8, 8, 1)
    assert (made != decode(state, noise, (label + 1) % 3)).any() and (made != decode(state, -noise, label)).any()


def test_lazy_penalties_are_as_large_on_average():
    """Every 2 updates, twice as large; evaluation has each of them once."""
    model, batch, state = start(n_critic=1)
    noisy = model.with_noise(batch, ROOT)
    lazy, disc, gen = dataclasses.replace(model, penalty_every=2), *(state.nets[k].variables for k in ("disc", "gen"))

    @functools.partial(jax.jit, static_argnums=0)
    def terms(model, update):
        return model.critic_terms(disc, gen, noisy, ROOT, update=update, train=True).means

    plain, due, rest = terms(model, 4), terms(lazy, 4), terms(lazy, 5)
    penalty = plain["gradient_penalty"].total
    np.testing.assert_allclose(due["critic_loss"].total, plain["critic_loss"].total + penalty, rtol=1e-5)
    np.testing.assert_allclose(rest["critic_loss"].total, plain["critic_loss"].total - penalty, rtol=1e-5, atol=1e-6)
    assert float(due["gradient_penalty"].weight.sum()) == 12 and float(rest["gradient_penalty"].weight.sum()) == 0
    evaluated = [m.critic_terms(disc, gen, noisy, ROOT, train=False).means["critic_loss"] for m in (model, lazy)]
    np.testing.assert_array_equal(*(mean.total for mean in evaluated))


def test_weights_stay_in_the_clip():
    model, batch = build(loss="wasserstein", clip_weights=0.01), batch_of(12)
    state, _ = jax.jit(model.train_step)(jax.jit(model.init)(ROOT, batch), batch, ROOT)
    largest = {
        name: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(net.params)) for name, net in state.nets.items()
    }
    assert largest["disc"] <= 0.01 + 1e-8 < 0.1 < largest["gen"]
    Program(smoke("experiments/gan/ring.py", "model.clip_weights=0.01")).check()


def test_instance_noise_falls_to_nothing():
    view = build(noise=0.5, noise_steps=100).view
    x = jnp.ones((4000, 2))
    for step, std in ((0, 0.5), (50, 0.25), (100, 0.0), (1000, 0.0)):
        np.testing.assert_allclose((view(x, ROOT, jnp.int32(step)) - x).std(), std, rtol=0.05)


def test_each_network_moves_its_own_statistics_which_are_averaged_and_used():
    model, batch, before, after = conditional()
    for name in ("gen", "disc"):
        assert not same(before.nets[name].stats, after.nets[name].stats)
        assert not same(after.nets[name].ema["stats"], after.nets[name].stats)
    gen, disc, batch = before.nets["gen"], before.nets["disc"], model.with_noise(batch, ROOT)
    moved, _ = jax.jit(model.critic_step)(disc, gen, batch, ROOT, jnp.int32(0))
    assert jax.tree.structure(moved) == jax.tree.structure(disc)
    again, _ = jax.jit(model.generator_step)(gen, disc, batch, ROOT, jnp.int32(0))
    assert jax.tree.structure(again) == jax.tree.structure(gen)


def test_statistics_are_saved_and_restored(tmp_path):
    """Batch statistics and the vectors of spectral norm, their averages too."""
    _, _, _, state = conditional()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    with Checkpoints(tmp_path / "checkpoints", keep=1, hash_limit_mb=100) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        _, restored, _ = checkpoints.restore(shapes)
    assert jax.tree.structure(restored) == jax.tree.structure(state) and same(restored, state)


def test_labels_steer_both_networks():
    model, batch, _, state = conditional()
    sample = jax.jit(model.sample, static_argnums=(2, 3))
    zero, one = (sample(state, ROOT, 4, gan.Sampling(label=i)) for i in (0, 1))
    assert zero.shape == (4, 8, 8, 1) and zero.dtype == jnp.uint8 and (zero != one).any()
    turns = sample(state, ROOT, 4, gan.Sampling())
    np.testing.assert_array_equal(turns[0], zero[0])
    np.testing.assert_array_equal(turns[1], one[1])
    critic = jax.jit(
        lambda label: model.critic.apply(state.nets["disc"].variables, jnp.ones((6, 8, 8, 1)), label, False)
    )
    assert not np.allclose(critic(batch["label"]), critic(2 - batch["label"]))


def test_attention_where_there_is_no_map_is_refused():
    fields = dict(image=(32, 32, 3), net="resnet", widths=(4, 4, 4), critic_widths=(4, 4, 4, 4))
    for side in (4, 12, 32):  # the last is the generator's alone
        with pytest.raises(ConfigError, match=r"^config\.model\.attention: expected one of \[0, 8, 16\], sides of"):
            validate(gan.Config, fields | dict(attention=side), "config.model")
    assert gan.Config(**fields, attention=16).attention == 16


@pytest.mark.parametrize(
    "fields",
    [
        dict(data_dim=0),
        dict(image=(8, 8, 1)),
        dict(net="dcgan"),
        dict(IMAGES, widths=(4, 4, 4, 4)),
        dict(IMAGES, attention=4),
        dict(IMAGES, critic_norm="batch", penalties={"r1": 1.0}),
        dict(loss="hinge", label_smoothing=0.1),
        dict(noise=0.1),
        dict(penalties={"r3": 1.0}),
        dict(augment=("blur",)),
    ],
    ids=str,
)
def test_contradictions_are_refused(fields):
    with pytest.raises(ValueError, match=r"expected|Input should|not permitted"):
        gan.Config(**(dict(data_dim=2) | fields))
