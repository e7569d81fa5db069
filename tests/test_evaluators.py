"""Evaluators on models small enough that the answer is known in closed form."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from members import asks

from gen_jax import data, evaluators
from gen_jax.core.info import Mixture
from gen_jax.core.sampling import Text
from gen_jax.core.state import Mean, State
from gen_jax.data.sources.gaussians import ring
from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import Context
from gen_jax.metrics.ngram import NGram
from gen_jax.models import vae
from gen_jax.runs import grids, metric_tags
from gen_jax.runs.grids import Labels

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


def build(section: dict, model: Any, arrays: dict, size: int = 4, **info):
    known = data.Info(**(dict(kind="vector", shape=(2,)) | info))
    context = Context(
        model,
        known,
        lambda split: batched(arrays, size),
        size,
        decode,
        jax.random.key(7),
        encode_text=encode,
        **asks(Text if known.kind == "tokens" else vae.Sampling, known, encode),
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
class Uniform:
    """One of 16 tokens, all alike: 4 bits each."""

    def eval_step(self, state, batch, rng):
        weight = batch["mask"].sum(1)
        return {"loss": Mean(weight * math.log(16), weight)}


def test_units_of_text():
    found = evaluators.build(evaluators.parse({"type": "mean"}), tokens_context(Uniform()))(STATE).scalars
    assert found["bits_per_token"] == pytest.approx(4) and found["perplexity"] == pytest.approx(16)
    read = decode(TEXT[1:])
    assert len(read.encode()) > len(read)
    assert found["bits_per_byte"] == pytest.approx(4 * len(read) / len(read.encode()))


@pytest.mark.parametrize("rows", [1, 3])
def test_ngram_is_fitted_on_the_training_tokens_and_measured_in_bytes(rows):
    held_out = encode("The lazy dög — jumps över the quick fox.")

    def batches(split):
        return streams({"train": TEXT, "test": held_out}[split], rows, 5)

    context = dataclasses.replace(tokens_context(Weighted(), rows), batches=batches)
    cfg = evaluators.parse({"type": "ngram", "order": 4})
    assert cfg.when == "end"
    found = evaluators.build(cfg, context)(STATE).scalars
    p = NGram.fit(TEXT[1:], 4, 10_000).probabilities(held_out[1:])
    expected = -np.log2(p).sum() / len(decode(held_out[1:]).encode())
    assert found == {"ngram_4_bits_per_byte": pytest.approx(expected, rel=1e-12)}


def test_ngram_is_refused_where_there_is_no_text_or_the_grams_are_too_many():
    with pytest.raises(ConfigError, match="ngram: expected text"):
        build({"type": "ngram"}, Weighted(), {}, kind="image")
    with pytest.raises(ConfigError, match=r"ngram: order: expected vocabulary \*\* order < 2 \*\* 63"):
        evaluators.build(evaluators.parse({"type": "ngram", "order": 5}), tokens_context(Weighted()))


@dataclasses.dataclass(frozen=True)
class Bound:
    discrete_likelihood: bool
    kl: float = 5.0

    def eval_step(self, state, batch, rng):
        ones = jnp.ones(len(batch["index"]))
        return {"loss": Mean.of(30 * ones), "elbo": Mean.of(-24 * math.log(2) * ones), "kl": Mean.of(self.kl * ones)}


@pytest.mark.parametrize("discrete", [True, False])
def test_bits_per_dim_only_of_discrete_pixels(discrete):
    arrays, info = {"image": np.zeros((5, 2, 3, 1), np.uint8)}, dict(kind="image", shape=(2, 3, 1))
    found = build({"type": "mean"}, Bound(discrete), arrays, **info)(STATE).scalars
    assert found.get("bits_per_dim") == (pytest.approx(4) if discrete else None)


@pytest.mark.parametrize(("kl", "collapsed"), [(0.01, 1.0), (5.0, 0.0)])
def test_posterior_collapse_is_a_scalar_and_a_warning(kl, collapsed):
    found = build({"type": "mean"}, Bound(False, kl), {"vector": np.zeros((3, 2), np.float32)})(STATE)
    assert found.scalars["posterior_collapse"] == collapsed
    assert len(found.warnings) == collapsed


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """z ~ N(0, 1), x | z ~ N(z, 1), and q(z | x) the posterior N(x / 2, 1 / 2) widened by `spread`."""

    spread: float = 1.0
    discrete_likelihood: bool = False

    def log_prob(self, state, batch, rng, num_samples):
        x = batch["vector"][:, :1]
        noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(rng, i), (num_samples,)))(batch["index"])
        scale = self.spread * math.sqrt(0.5)
        z = x / 2 + scale * noise
        log = jax.scipy.stats.norm.logpdf
        weights = log(z) + log(x, z) - log(z, x / 2, scale)
        return jax.nn.logsumexp(weights, axis=1) - math.log(num_samples)


def gaussian_data(n=19):
    x = np.random.default_rng(3).normal(size=(n, 2)).astype(np.float32)
    truth = -(np.float64(x[:, 0]) ** 2) / 4 - 0.5 * math.log(4 * math.pi)  # x ~ N(0, 2)
    return x, truth


@pytest.mark.parametrize("batch", [0, 2, 4])
def test_log_likelihood_of_a_gaussian(batch):
    x, truth = gaussian_data()
    section = {"type": "log_likelihood", "num_samples": 7, "batch": batch}
    found = build(section, Gaussian(), {"vector": x}, 4)(STATE).scalars
    assert found["log_likelihood"] == pytest.approx(truth.mean(), abs=1e-5)
    assert found["log_likelihood_stderr"] == pytest.approx(truth.std(ddof=1) / math.sqrt(19), rel=1e-4)
    assert set(found) == {"log_likelihood", "log_likelihood_stderr"}


def test_log_likelihood_does_not_depend_on_the_batch_and_tightens_with_samples():
    x, truth = gaussian_data()

    def found(k, batch):
        section = {"type": "log_likelihood", "num_samples": k, "batch": batch}
        return build(section, Gaussian(spread=1.7), {"vector": x}, 4)(STATE).scalars["log_likelihood"]

    assert found(50, 1) == pytest.approx(found(50, 4), abs=1e-6)
    assert found(1, 4) < found(1000, 4) == pytest.approx(truth.mean(), abs=0.02)


@pytest.mark.parametrize("limit", [1, 6, 8, 99])
def test_log_likelihood_of_the_first_examples(limit):
    x, truth = gaussian_data()
    section = {"type": "log_likelihood", "max_examples": limit, "batch": 2}
    found = build(section, Gaussian(), {"vector": x}, 4)(STATE).scalars
    assert found["log_likelihood"] == pytest.approx(truth[:limit].mean(), abs=1e-5)


def test_log_likelihood_in_bits_and_when_not_finite():
    x, truth = gaussian_data()
    found = build({"type": "log_likelihood"}, Gaussian(1.0, True), {"vector": x}, shape=(4, 2, 1), kind="image")(STATE)
    bits = -truth.mean() / math.log(2) / 8
    assert found.scalars["log_likelihood_bits_per_dim"] == pytest.approx(bits, abs=1e-5)
    x[3] = np.inf
    found = build({"type": "log_likelihood"}, Gaussian(), {"vector": x})(STATE)
    assert "1 of 19" in found.warnings[0] and not math.isfinite(found.scalars["log_likelihood"])


@dataclasses.dataclass(frozen=True)
class Grey(Gaussian):
    normalised_likelihood: bool = False


def test_log_likelihood_refuses_what_is_no_likelihood():
    with pytest.raises(ConfigError, match="log_likelihood: expected a normalised likelihood"):
        build({"type": "log_likelihood"}, Grey(), {})


def test_log_likelihood_refuses_batches_that_do_not_divide():
    with pytest.raises(ConfigError, match=r"batch.*divisor of 4"):
        build({"type": "log_likelihood", "batch": 3}, Gaussian(), {})
    with pytest.raises(ConfigError, match="log_prob"):
        build({"type": "log_likelihood"}, Weighted(), {})


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


@pytest.mark.parametrize(("scale", "active"), [((1.0, 1e-6, 0.5), 2), ((0.0, 0.0, 1e-6), 0)])
def test_active_units_of_a_known_encoder(scale, active):
    arrays = {"image": small_images()}
    found = build({"type": "active_units"}, Linear(scale), arrays, kind="image", shape=(1, 3, 1))(STATE)
    assert found.scalars == {"active_units": active, "active_units_share": active / 3}
    assert bool(found.warnings) == (active == 0)


def test_active_units_threshold_is_on_the_variance():
    x = small_images()
    variance = x.reshape(-1, 3).astype(np.float64).var(0)
    between = float(np.sort(variance)[:2].mean())
    section = {"type": "active_units", "threshold": between}
    found = build(section, Linear(), {"image": x}, kind="image", shape=(1, 3, 1))(STATE)
    assert found.scalars["active_units"] == 2


@dataclasses.dataclass(frozen=True)
class Codes:
    num_codes: int = 8

    def encode(self, state, batch):
        return batch["codes"]


def test_codebook_of_known_use_ignores_padding():
    codes = np.array([[[0, 1]], [[0, 2]], [[0, 0]], [[1, 2]], [[7, 7]]])
    found = build({"type": "codebook"}, Codes(), {"codes": codes}, 4)(STATE).scalars
    p = np.array([4, 2, 2, 2]) / 10
    assert found["codebook_perplexity"] == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    assert found["codebook_used"] == 0.5
    assert build({"type": "codebook"}, Codes(64), {"codes": codes}, 4)(STATE).warnings
    for kind, model in (("codebook", Linear()), ("active_units", Codes())):
        with pytest.raises(ConfigError, match=f"{kind}: expected a model that encodes"):
            build({"type": kind}, model, {})


@dataclasses.dataclass(frozen=True)
class Off:
    """Reconstructs with an error of its own for each example."""

    def reconstruct(self, state, batch, rng):
        return batch["image"] + (1 + batch["index"] % 2 * 4).astype(jnp.uint8)[:, None, None, None]


def test_psnr_is_the_mean_over_examples():
    arrays, info = {"image": np.zeros((5, 2, 2, 1), np.uint8)}, dict(kind="image", shape=(2, 2, 1))
    found = build({"type": "psnr"}, Off(), arrays, **info)(STATE).scalars["psnr"]
    one, five = 20 * math.log10(255), 20 * math.log10(255 / 5)
    assert found == pytest.approx((3 * one + 2 * five) / 5, abs=1e-4)
    assert build({"type": "psnr"}, Linear(), {"image": small_images()}, kind="image")(STATE).scalars["psnr"] == 100
    with pytest.raises(ConfigError, match="reconstructs"):
        build({"type": "psnr"}, Weighted(), arrays, **info)
    with pytest.raises(ConfigError, match="images"):
        build({"type": "psnr"}, Off(), arrays)


@dataclasses.dataclass(frozen=True)
class Ring:
    covered: int

    def sample(self, state, rng, n, options):
        centres = jnp.asarray(ring(8, 2.0)[: self.covered], jnp.float32)
        return centres[jnp.arange(n) % self.covered] + 0.01 * jax.random.normal(rng, (n, 2))


def test_modes_that_the_samples_reach(figures):
    centres = ring(8, 2.0)
    arrays, mixture = {"vector": np.float32(centres).repeat(5, 0)}, Mixture(tuple(map(tuple, centres)), 0.02)
    found = build({"type": "modes", "n": 400}, Ring(6), arrays, mixture=mixture)(STATE)
    assert figures[0].axes[0].get_title() == "Samples over data of test: 6 of 8 modes"
    scalars = {metric_tags.name_of(tag): value for tag, value in found.scalars.items()}
    assert scalars["modes"] == 6 and scalars["near_share"] > 0.99
    assert found.warnings == ["mode collapse: samples reach 6 of 8 modes"]
    assert not build({"type": "modes", "n": 400}, Ring(8), arrays, mixture=mixture)(STATE).warnings
    assert scalars["mode_kl"] == pytest.approx(math.log(8 / 6), abs=0.01)
    other = build({"type": "modes", "n": 400}, Ring(6), arrays, mixture=mixture._replace(sigma=0.03))(STATE)
    unlike = metric_tags.difference(*(metric_tags.find("modes", list(report.scalars))[0] for report in (found, other)))
    assert unlike.startswith("mixture ") and "n_fake=400" in next(iter(found.scalars))
    assert found.images["modes"].dtype == np.uint8 and found.images["modes"].shape[2] == 3
    with pytest.raises(ConfigError, match="modes: min_share: expected at most half of 1 / 8"):
        build({"type": "modes", "min_share": 0.1}, Ring(8), arrays, mixture=mixture)
    with pytest.raises(ConfigError, match="modes: expected data whose mixture is known"):
        build({"type": "modes"}, Ring(6), arrays)


IMAGES = dict(kind="image", shape=(1, 3, 1))


def test_pictures_of_all_that_the_model_can_do():
    arrays = {"image": small_images(), "label": np.arange(21, dtype=np.int32) % 2}
    evaluate = build({"type": "pictures"}, Linear(), arrays, **IMAGES)
    found = evaluate(STATE).images
    assert set(found) == {"reconstruction", "samples", "interpolation", "traversal", "scatter"}
    for name, again in evaluate(STATE).images.items():
        assert found[name].dtype == np.uint8 and (found[name] == again).all(), name
    labels = Labels("Reconstructions of test", ("data", "reconstruction"))
    expected = grids.pairs(arrays["image"], arrays["image"], labels=labels)
    assert (found["reconstruction"] == expected).all()


def test_interpolation_goes_straight_from_one_example_to_the_other():
    x = small_images()
    section = {"type": "pictures", "kinds": ["interpolation"], "rows": 3, "columns": 3}
    found = build(section, Linear(), {"image": x}, **IMAGES)(STATE).images["interpolation"]
    rows = []
    for a, b in zip(x[0:6:2].astype(float), x[1:6:2].astype(float), strict=True):
        rows += [a, a, np.round((a + b) / 2), b, b]
    labels = Labels("Interpolation between latents of test", columns=("data", "0", "0.5", "1", "data"))
    assert (found == grids.grid(np.stack(rows).astype(np.uint8), labels, 5)).all()


TRAVERSALS = "Traversals: one latent moves, the others stay at"


def test_traversal_moves_the_latents_that_vary_most():
    x = np.full((9, 1, 3, 1), 100, np.uint8)
    x[:, 0, 2, 0] += np.arange(9, dtype=np.uint8)
    x[:, 0, 0, 0] += np.arange(9, dtype=np.uint8) // 4
    section = {"type": "pictures", "kinds": ["traversal"], "rows": 2, "columns": 3}
    found = build(section, Linear((1 / 25,) * 3), {"image": x}, **IMAGES)(STATE).images["traversal"]
    start = x.reshape(-1, 3).astype(float).mean(0)
    rows = np.tile(start, (6, 1))
    rows[:3, 2] = rows[3:, 0] = [0, 0, 75]
    labels = Labels(f"{TRAVERSALS} their mean", ("latent 2", "latent 0"), ("-3", "0", "3"))
    expected = grids.grid(np.round(rows).astype(np.uint8).reshape(-1, 1, 3, 1), labels, 3)
    assert (found == expected).all()


def test_samples_take_the_options():
    section = {"type": "pictures", "kinds": ["samples"], "n": 4, "sampling": {"temperature": 1e-6}}
    found = build(section, Linear(), {"image": small_images()}, **IMAGES)(STATE).images["samples"]
    assert (found == grids.grid(np.zeros((4, 1, 3, 1), np.uint8), Labels("Samples"))).all()


def test_samples_of_a_conditional_model_have_a_column_a_class(written):
    section = {"type": "pictures", "kinds": ["samples"], "n": 8, "sampling": {"label": "each"}}
    for label, title in (("each", "Samples, one class per column"), (1, "Samples of class b")):
        section["sampling"]["label"] = label
        build(section, Told(), {"image": small_images()}, class_names=("a", "b"), **IMAGES)(STATE)
        assert title in written


def test_series_stand_beside_samples(figures):
    @dataclasses.dataclass(frozen=True)
    class Counts:
        def sample(self, state, rng, n, options):
            return jnp.broadcast_to(jnp.arange(3.0), (n, 3))

    report = build({"type": "series", "n": 2}, Counts(), {"vector": np.ones((5, 3), np.float32)}, shape=(3,))(STATE)
    assert report.scalars == {
        "real_mean": 1,
        "real_std": 0,
        "sample_mean": 1,
        "sample_std": pytest.approx((2 / 3) ** 0.5),
    }
    (figure,) = figures
    assert figure.get_suptitle() == "Series of test and samples"
    assert [axis.get_title("left") for axis in figure.axes] == ["real", "sample"]
    assert [line.get_ydata().tolist() for axis in figure.axes for line in axis.lines] == [[1, 1, 1]] * 2 + [
        [0, 1, 2]
    ] * 2


def test_pictures_of_vectors_are_scatter_plots(figures):
    found = build({"type": "pictures"}, Ring(8), {"vector": np.zeros((9, 2), np.float32)})(STATE).images
    assert set(found) == {"samples"} and found["samples"].shape[2] == 3
    assert figures[0].axes[0].get_title() == "Samples over data of test"


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("reconstruction", Ring(8)),
        ("samples", Off()),
        ("interpolation", Codes()),
        ("traversal", Off()),
        ("scatter", Codes()),
    ],
)
def test_pictures_that_the_model_cannot_give_are_refused(kind, model):
    with pytest.raises(ConfigError, match=f"pictures: kinds: {kind}: expected a model that"):
        build({"type": "pictures", "kinds": [kind]}, model, {}, **IMAGES)
    with pytest.raises(ConfigError, match="expected images"):
        build({"type": "pictures", "kinds": ["traversal"]}, Linear(), {}, kind="tokens")


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


@dataclasses.dataclass(frozen=True)
class Told(Linear):
    """Decodes to its label, whatever the latents."""

    num_classes: int = 4

    def decode(self, state, latents, label=None):
        assert label is not None
        return jnp.broadcast_to(label.astype(jnp.uint8)[:, None, None, None], (len(latents), 1, 3, 1))


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
