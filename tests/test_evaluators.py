"""Evaluators on models small enough that the answer is known in closed form."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluating import IMAGES, STATE, TEXT, TRAVERSALS, Told, Weighted, batched, build, small_images, tokens_context
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax import data, evaluators
from gen_jax.core.state import Mean
from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import Context
from gen_jax.runs import grids
from gen_jax.runs.grids import Labels


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.sampled_from([1, 3, 8, 16]), st.integers(0, 99))
def test_mean_is_exact_whatever_the_batch_size(n, size, seed):
    rng = np.random.default_rng(seed)
    x = np.stack([rng.normal(size=n) * 10.0 ** rng.integers(-6, 6, n), rng.integers(0, 9, n)], 1).astype(np.float32)
    x[0, 1] = 1
    found = build({"type": "mean"}, Weighted(), {"vector": x}, size)(STATE)
    sums = [math.fsum(x[:, 0].tolist()), math.fsum(x[:, 1].tolist())]
    assert found.scalars == {"loss": sums[0] / sums[1], "other": sums[1] / n}
    assert not found.warnings


def test_mean_compiles_once_and_reads_once_in_many_batches(monkeypatch):
    reads = []
    plain = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: reads.append(1) or plain(tree))
    model = Weighted()
    evaluate = build({"type": "mean"}, model, {"vector": np.ones((90, 2), np.float32)}, 2)
    first, second = evaluate(STATE), evaluate(STATE)
    assert first == second and len(model.traces) == 1
    assert len(reads) == 2 * 2  # 45 batches, two reads an evaluation


def test_mean_of_a_metric_without_weight_is_a_warning():
    found = build({"type": "mean"}, Weighted(), {"vector": np.float32([[3, 0], [4, 0]])})(STATE)
    assert found.scalars == {"other": 0.0} and "loss" in found.warnings[0]


@dataclasses.dataclass(frozen=True)
class Running:
    """The loss of a token is the sum of all tokens so far in the row's stream."""

    def init_carry(self, batch):
        return jnp.zeros(len(batch["tokens"]))

    def eval_carried(self, state, batch, carry, rng):
        carry = jnp.where(batch["reset"], 0, carry)
        sums = carry[:, None] + jnp.cumsum(batch["tokens"][:, 1:], 1)
        mask = batch["mask"]
        return {"loss": Mean((sums * mask).sum(1), mask.sum(1))}, sums[:, -1]

    def eval_step(self, state, batch, rng):
        return self.eval_carried(state, batch, self.init_carry(batch), rng)[0]


@pytest.mark.parametrize("rows", [1, 3])
def test_carried_mean_is_that_of_one_long_pass(rows):
    cfg = evaluators.parse({"type": "mean", "carried": True})
    found = evaluators.build(cfg, tokens_context(Running(), rows))(STATE)
    stretch = -(-(len(TEXT) - 1) // rows)
    losses = np.concatenate([np.cumsum(TEXT[1:][i : i + stretch]) for i in range(0, len(TEXT) - 1, stretch)])
    assert found.scalars["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    cold = evaluators.build(evaluators.parse({"type": "mean"}), tokens_context(Running(), rows))(STATE)
    assert cold.scalars["loss"] < found.scalars["loss"]


def test_carried_is_refused_without_a_carry_and_for_records():
    with pytest.raises(ConfigError, match="carried"):
        build({"type": "mean", "carried": True}, Weighted(), {})
    with pytest.raises(ConfigError, match=r"mean: carried: expected false for records, each of which stands by itself"):
        build({"type": "mean", "carried": True}, Running(), {}, kind="tokens", records=True)


@dataclasses.dataclass(frozen=True)
class Echo:
    def sample(self, state, rng, n, options):
        first = ord("a") + sum(map(len, options.prompts))
        return jnp.broadcast_to(first + jnp.arange(options.length), (n, options.length)), jnp.arange(n) + 1


def test_text_is_shown_as_it_is():
    section = {"type": "text", "n": 2, "sampling": {"length": 3}, "alarm_n": 0}
    found = build(section, Echo(), {}, kind="tokens")(STATE).texts["samples"]
    assert found == "```text\na\n```\n\n```text\nab\n```"
    found = build(section | {"sampling": {"length": 3, "prompts": ["``` x"]}}, Echo(), {}, kind="tokens")(STATE).texts[
        "samples"
    ]
    assert found == "Prompt:\n\n````text\n``` x\n````\n\n```text\nf\n```\n\n```text\nfg\n```"


def test_a_conditional_model_is_told_the_labels_of_its_examples():
    x, label = small_images(), np.arange(21, dtype=np.int32) % 4
    section = {"type": "pictures", "kinds": ["interpolation", "traversal"], "rows": 3, "columns": 2}
    found = build(section, Told(), {"image": x, "label": label}, class_names=("a", "b"), **IMAGES)(STATE).images
    rows = []
    for i in (0, 2, 4):  # of the left end
        rows += [x[i], np.full_like(x[0], label[i]), np.full_like(x[0], label[i]), x[i + 1]]
    labels = Labels(
        "Interpolation between latents of test", ("class a", "class 2", "class a"), ("data", "0", "1", "data")
    )
    assert (found["interpolation"] == grids.grid(np.stack(rows), labels, 4)).all()
    label += 1  # of the first example
    found = build(section, Told(), {"image": x, "label": label}, class_names=("a", "b"), **IMAGES)(STATE).images
    order = np.argsort(-x.reshape(-1, 3).astype(float).var(0))
    labels = Labels(f"{TRAVERSALS} their mean, class b", [f"latent {i}" for i in order], ("-3", "3"))
    assert (found["traversal"] == grids.grid(np.full((6, 1, 3, 1), 1, np.uint8), labels, 2)).all()


def test_types_are_found_by_name():
    assert evaluators.parse({"type": "mean", "split": "validation"}).split == "validation"
    for section, message in (
        ({"type": "maen"}, r"config\.evals\.x\.type: .*'maen'; did you mean mean\?"),
        ({"type": "zzz"}, "known: active_units, .*codebook"),
        ({"type": "base"}, "'base'"),
        ({}, r"config\.evals\.x\.type: expected"),
        ({"type": "mean", "carry": True}, r"config\.evals\.x\.carry: unknown key"),
        ({"type": "mean", "collapse_kl": -1}, r"config\.evals\.x\.collapse_kl: "),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluators.parse(section, "config.evals.x")


def test_sharded_state_and_batches_give_the_same_mean():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    x = np.random.default_rng(0).normal(size=(21, 2)).astype(np.float32)
    x[:, 1] = 1

    def batches(split):
        return (jax.device_put(batch, rows) for batch in batched({"vector": x}, 8))

    context = Context(Weighted(), data.Info("vector", (2,)), batches, 8, None, jax.random.key(0))
    found = evaluators.build(evaluators.parse({"type": "mean"}), context)(STATE).scalars
    assert found["loss"] == math.fsum(x[:, 0].tolist()) / 21


@dataclasses.dataclass(frozen=True)
class Level:
    """Samples of the temperature alone."""

    def sample(self, state, rng, n, options):
        return jnp.full((n, 2), options.temperature)


def test_series_say_how_they_were_sampled():
    arrays = {"vector": np.array([[1, 3], [5, 7]], np.float32)}
    for sampling, facts in (({}, ""), ({"temperature": 0.5}, "@sampling.temperature=0.5")):
        found = build({"type": "series", "sampling": sampling}, Level(), arrays)(STATE)
        sampled = {f"sample_mean{facts}": 0.5 if facts else 1, f"sample_std{facts}": 0}
        assert found.scalars == pytest.approx({"real_mean": 4, "real_std": math.sqrt(5), **sampled})
