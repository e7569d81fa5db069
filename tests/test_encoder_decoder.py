"""The encoder-decoder: packed rows mean the same as one pair a row; loss, cache and translation by closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import SMALLEST, smoke

from gen_jax import cli
from gen_jax.data.packing import Sequences, one_a_row, pack, rows_of_pairs
from gen_jax.models import encoder_decoder
from gen_jax.nets.encoder_decoder import places, sinusoids
from gen_jax.runs.metric_tags import find
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train
from gen_jax.training.program import Program

PATH = SMALLEST["encoder_decoder"]
END = 300


@pytest.fixture(scope="module")
def program():
    return Program(smoke(PATH, "steps_per_call=1", "model.smoothing=0.1", "model.encoder_layers=2"))


@pytest.fixture(scope="module")
def state(program):
    return program.init()


def pairs(sizes, seed=0):
    rng = np.random.default_rng(seed)
    draw = [[rng.integers(0, END, size, np.int32) for size in side] for side in zip(*sizes, strict=True)]
    return Sequences.of(draw[0], END), Sequences.of(draw[1], END)


SIZES = ((3, 5), (6, 2), (1, 1), (4, 7), (2, 0), (5, 5))


def rows(layout, widths):
    return jax.tree.map(jnp.asarray, rows_of_pairs(*pairs(SIZES), layout, widths, END))


def nats_of_pairs(program, state, batch, layout):
    """The sum of nll of each pair [N]."""
    logits = jax.jit(program.model.logits)(state, batch)
    nll = np.asarray(encoder_decoder.smoothed(logits, batch["tokens"][:, 1:], 0.0)[1] * batch["mask"])
    segment = np.asarray(batch["segment"])
    return [nll[r][segment[r] == s].sum() for r, s in zip(layout.rows, layout.segments, strict=True)]


def test_a_packed_row_means_the_same_as_one_pair_a_row(program, state):
    source, target = pairs(SIZES)
    packed, alone = pack(np.stack([source.sizes, target.sizes], axis=1), 16), one_a_row(len(SIZES))
    assert packed.rows.max() < 3 and packed.segments.max() > 1
    few, many = rows(packed, (16, 16)), rows(alone, (9, 10))
    np.testing.assert_allclose(
        nats_of_pairs(program, state, few, packed), nats_of_pairs(program, state, many, alone), rtol=1e-5, atol=1e-5
    )

    @jax.jit
    def means_of(batch):
        rng, variables = jax.random.key(0), state.nets["net"].variables
        return program.model.terms(variables, batch, rng, step=state.step, train=False).means

    means = means_of(few), means_of(many)
    for name in ("loss", "nll", "accuracy"):
        a, b = (mean[name].sum() for mean in means)
        assert float(a.total) == pytest.approx(float(b.total), rel=1e-5) and a.weight == b.weight == target.sizes.sum()


def test_a_source_moves_its_own_target_alone(program, state):
    """And a target token moves only those behind it in its segment."""
    source, target = pairs(SIZES)
    layout = pack(np.stack([source.sizes, target.sizes], axis=1), 16)
    batch = rows(layout, (16, 16))
    logits = jax.jit(functools.partial(program.model.logits, state))
    before = logits(batch)
    row, segment = 0, int(layout.segments[layout.rows == 0].max())
    assert segment > 1
    here = np.asarray(batch["segment"][row])
    place = int(np.argmax(np.asarray(batch["source_segment"][row]) == segment))
    other = batch | {"source": batch["source"].at[row, place].add(1)}
    moved = np.abs(np.asarray(logits(other) - before)).max(axis=-1) > 1e-6
    moved = moved & (np.asarray(batch["mask"]) > 0)
    np.testing.assert_array_equal(moved[row], here == segment)
    assert not moved[1:].any()
    first = int(np.argmax(here == 1))
    other = batch | {"tokens": batch["tokens"].at[row, first + 1].add(1)}
    moved = np.abs(np.asarray(logits(other) - before)).max(axis=-1) > 1e-6
    np.testing.assert_array_equal(moved[row] & (here > 0), (here == 1) & (np.arange(16) > first))


def test_smoothing_is_the_cross_entropy_to_a_smoothed_target():
    logits = jax.random.normal(jax.random.key(0), (4, 7))
    targets = jnp.array([0, 3, 6, 2])
    loss, nll = encoder_decoder.smoothed(logits, targets, 0.2)
    q = 0.8 * np.eye(7)[targets] + 0.2 / 7
    p = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(loss, -(q * p).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(nll, -p[np.arange(4), targets], rtol=1e-5)
    loss, nll = encoder_decoder.smoothed(jnp.zeros((1, 7)), jnp.zeros(1, int), 0.3)
    np.testing.assert_allclose([loss[0], nll[0]], np.log(7), rtol=1e-6)


def test_places_restart_at_each_segment():
    segment = jnp.array([[1, 1, 1, 2, 2, 3, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]])
    assert places(segment).tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6]]


def test_sinusoids_are_those_of_the_paper():
    table = np.asarray(sinusoids(jnp.arange(50), 8))
    for i in range(4):
        angle = np.arange(50) / 10_000 ** (2 * i / 8)
        np.testing.assert_allclose(table[:, i], np.sin(angle), atol=1e-5)
        np.testing.assert_allclose(table[:, 4 + i], np.cos(angle), atol=1e-5)


def test_tables_of_tokens_are_one(program, state):
    params = state.nets["net"].params
    tables = [leaf.shape for leaf in jax.tree.leaves(params) if END + 1 in leaf.shape]
    assert tables == [(END + 1, 16)]


@pytest.mark.parametrize(
    "options", [encoder_decoder.Sampling(temperature=0.0, length=6), encoder_decoder.Sampling(beams=3, length=6)]
)
def test_a_prompt_is_translated_as_its_row_of_the_data(program, state, options):
    """`sample` with sources as prompts equals `translate` of the batch that holds them, whatever the padding."""
    batch = {name: array[:4] for name, array in next(iter(program.batches("test"))).items()}
    kept = np.asarray(batch["source_segment"]) > 0
    prompts = tuple(tuple(row[on].tolist()[:-1]) for row, on in zip(np.asarray(batch["source"]), kept, strict=True))
    options = encoder_decoder.Sampling(**{**dict(options), "prompts": prompts})
    rng = jax.random.key(0)
    tokens, lengths = jax.jit(lambda: program.model.sample(state, rng, 4, options))()
    wide = {name: jnp.pad(batch[name], ((0, 0), (0, 3))) for name in ("source", "source_segment")}
    same, sizes = jax.jit(lambda: program.model.translate(state, rng, wide, options))()
    np.testing.assert_array_equal(tokens, same)
    np.testing.assert_array_equal(lengths, sizes)


def test_wrong_sections_are_refused():
    from gen_jax.errors import ConfigError

    with pytest.raises(ConfigError, match=r"width: expected a multiple of 2 x heads = 8"):
        smoke(PATH, "model.width=20", "model.heads=4")
    with pytest.raises(ConfigError, match=r"end: expected a token below vocab = 301"):
        smoke(PATH, "model.end=301")


@pytest.mark.slow
def test_a_trained_run_has_a_curve_of_bleu_and_translates_prompts(tmp_path):
    train(smoke(PATH, "total_steps=2", "log_every=2", "eval_every=2", "save_every=2"), tmp_path / "run")
    assert (tmp_path / "run/samples/curves_bleu_00000002.png").exists()
    (tag,) = find("test/bleu", [*RunDir(tmp_path / "run").rows()[-1]])
    assert RunDir(tmp_path / "run").rows()[-1][tag] >= 0
    cli.main(["sample", f"--workdir={tmp_path / 'run'}", "--prompt=4 0 7", "--beams=2", "--length=5"])
    arrays = np.load(next((tmp_path / "run/samples").glob("*.npz")))
    assert arrays["tokens"].shape == (1, 5) and arrays["lengths"].shape == (1,)
