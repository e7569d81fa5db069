"""What shapes alone show to be wrong: sizes, an evaluator or `best` that does not fit; refused before a step."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from members import SMALLEST, VARIANTS, smoke, some_slow

from gen_jax import config
from gen_jax.core.sampling import Text
from gen_jax.errors import ConfigError
from gen_jax.models import vae
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train
from gen_jax.training import checks
from gen_jax.training.preprocess import preprocessed
from gen_jax.training.program import Program
from gen_jax.training.seeds import make

VAE, TEXT = SMALLEST["vae"], SMALLEST["transformer"]
HUGE, BEYOND = 10**12, 10**30


@pytest.mark.parametrize(
    ("path", "flags", "key"),
    [
        (VAE, [f"model.latent={HUGE}"], "config.model"),
        (VAE, [f"batch_size={HUGE}"], "config.batch_size"),
        (VAE, [f"eval_batch_size={BEYOND}"], "config.eval_batch_size"),
        (VAE, [f"evals.pictures.n={HUGE}"], "config.evals.pictures.n"),
        (VAE, [f"num_seeds={10**9}"], "config.num_seeds"),
        (VAE, [f"evals.log_likelihood.num_samples={HUGE}"], "config.evals.log_likelihood.num_samples"),
        (TEXT, [f"model.context={HUGE}"], "config.model"),
        (TEXT, [f"evals.text.n={HUGE}"], "config.evals.text.n"),
        (TEXT, [f"model.layers={HUGE}"], "config.model.layers"),
        (TEXT, [f"optim.net.warmup={HUGE}"], "config.optim.net.warmup"),
        (VAE, [f"evals.pictures.columns={HUGE}"], "config.evals.pictures.columns"),
        (VAE, [f"data.size={10**6}"], "config.data"),
        (SMALLEST["cyclegan"], [f"model.stages={HUGE}"], "config.model.stages"),
        (SMALLEST["wavenet"], [f"model.depth={HUGE}"], "config.model.depth"),
        (SMALLEST["gan"], [f"model.n_critic={HUGE}"], "batch_size"),
        (SMALLEST["gan"], [f"model.penalty_every={HUGE}"], "config.model.penalty_every"),
        (SMALLEST["gan"], [f"data.modes={HUGE}"], "config.data"),
        (SMALLEST["gan"], [f"data.examples={HUGE}"], "config.data"),
    ],
)
def test_what_cannot_be_allocated_is_refused_in_one_line(path, flags, key):
    with pytest.raises(ConfigError) as error:
        make(smoke(path, *flags)).check()
    assert str(error.value).startswith(f"{key}: ") and "\n" not in str(error.value)


def test_a_set_that_is_drawn_is_measured_before(monkeypatch):
    drawn = smoke(SMALLEST["linear_ar"], "data.length=24", "data.examples=1000", "model.data_dim=24")
    monkeypatch.setattr(checks, "host_bytes", lambda: 16 * 1000 * (1000 + 24))  # noise and values, with the burn-in
    Program(drawn)
    monkeypatch.setattr(checks, "host_bytes", lambda: 16 * 1000 * (1000 + 24) - 1)
    with pytest.raises(ConfigError, match=r"^config\.data: .*this host: needed at least 16,384,000 bytes"):
        Program(drawn)


def test_the_estimate_is_the_sum_of_the_arrays(monkeypatch):
    experiment = smoke(VAE, "optim.net.ema=0.9")
    program = Program(experiment)
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(program.shapes.nets["net"].params))
    parts = checks.needed(program)
    moments_and_average = 4 * 3 * count
    assert (
        0 < parts["model"] - 4 * count - moments_and_average - 4 * count < 64
    )  # parameters, these, gradients; counters
    images = program.dataset.sizes["train"] * 64
    assert parts["data"] == images + 4 * program.dataset.sizes["train"]  # and labels
    assert parts["batch_size"] == 16 * (64 + 4 + 4 + 1)  # image, label, index, valid
    needed = sum(parts.values()) - min(parts["batch_size"], parts["eval_batch_size"])
    monkeypatch.setattr(checks, "available", lambda: (needed, 10**12))
    checks.check_memory(program)
    monkeypatch.setattr(checks, "available", lambda: (needed - 1, 10**12))
    with pytest.raises(
        ConfigError, match=rf"^config\.data: .* needed at least {needed:,} bytes, available {needed - 1:,}"
    ):
        checks.check_memory(program)
    checks.check_memory(Program(experiment.model_copy(update={"memory_check": False})))


def test_the_largest_product_counts(monkeypatch):
    program = Program(smoke(VAE))
    monkeypatch.setattr(checks, "available", lambda: (4 * 16 * 64 - 1, 10**12))
    with pytest.raises(ConfigError, match=r"^config\.batch_size: .*needed at least 4,096 bytes"):  # [16, 64] float32
        checks._check_products(program)


def test_samples_are_measured_before_they_are_drawn(monkeypatch):
    program = Program(smoke(VAE))

    def draw(state, rng):
        carried = jax.lax.fori_loop(0, 3, lambda _, x: 2 * x, jnp.ones(1_000))  # and its counter, int32
        return carried[:500].sum() * jnp.ones((200, 5), jnp.int8)

    model = SimpleNamespace(sample=lambda state, rng, n, options: draw(state, rng))

    def check(found, options=vae.Sampling(), ways=1):  # noqa: B008
        monkeypatch.setattr(checks, "available", lambda: (10**12, found))
        monkeypatch.setattr(program, "mesh", SimpleNamespace(size=ways))
        monkeypatch.setattr(program, "model", model)
        checks.check_draw(program, 8, options, "--n")

    check(4_004)
    with pytest.raises(ConfigError, match=r"^--n: .* needed at least 4,004 bytes, available 4,003"):
        check(4_003)
    check(4_000, ways=2)  # the samples, float32, that are not shared
    with pytest.raises(ConfigError, match=r"needed at least 4,000 bytes"):
        check(3_999, ways=2)
    prompted = Text(prompts=((1,) * 300, (2,)), length=200)
    with pytest.raises(
        ConfigError, match=r"needed at least 8,000 bytes"
    ):  # 8 rows of 300 tokens and 200 that are drawn
        check(7_999, prompted)
    monkeypatch.setattr(program, "experiment", program.experiment.model_copy(update={"memory_check": False}))
    check(1)


def test_a_batch_that_lacks_what_the_model_reads_names_evaluator_and_key(monkeypatch):
    program, shapes = Program(smoke(VAE, "model.num_classes=10")), checks.batch_shapes

    def unlabelled(*args):
        return {name: x for name, x in shapes(*args).items() if name != "label"}

    monkeypatch.setattr(checks, "batch_shapes", unlabelled)
    with pytest.raises(
        ConfigError, match=r"^config\.evals\.elbo\.split: expected examples with 'label', which VAE reads"
    ):
        checks._traced(program, "elbo")


@pytest.mark.parametrize("model", some_slow(SMALLEST, {"vae"}))
def test_the_names_that_evaluators_declare_are_those_that_they_give(model, tmp_path):
    experiment = smoke(SMALLEST[model])
    state = train(experiment.model_copy(update={"total_steps": experiment.steps_per_call}), tmp_path / "run")
    program = Program(experiment)
    program = preprocessed(program, state, RunDir(tmp_path / "run").path / "cache")
    for name, evaluator in program.evaluators.items():
        declared = set(evaluator.names(checks._traced(program, name)))
        given = {tag.partition("@")[0] for tag in evaluator(state).scalars}
        assert given <= declared, name


def test_a_metric_of_the_test_split_is_warned_of(capsys):
    Program(smoke(VAE, "best.metric=test/elbo")).check()
    assert capsys.readouterr().err.startswith("warning: config.best.metric: test/elbo reads the test split")
    Program(smoke(VAE, "best.metric=val/elbo", "evals.elbo.split=validation")).check()
    assert not capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"config\.evals\.log_likelihood\.when: expected always"):
        Program(smoke(VAE, "best.metric=test/log_likelihood")).check()


@pytest.mark.slow
@pytest.mark.parametrize("path", VARIANTS)
def test_no_shipped_config_is_refused(path):
    """Its smoke variant as a whole; of the full one the best metric reads no test split."""
    experiment = smoke(path)
    Program(experiment).check()
    assert "test" not in experiment.best.metric.partition("/")[0].split("+")


NEEDS_FILES = ("folders.py", "multi30k.py", "cifar10_sngan.py", "spoken_digit.py", "imagenet_dit_b4.py")
NEEDS_A_POD = ("size=1b", "size=7b")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in VARIANTS if not any(name in path for name in (*NEEDS_FILES, *NEEDS_A_POD))]
)
def test_no_shipped_config_is_refused_on_24_gb(path, shared_data, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(shared_data / "tfds"))
    monkeypatch.setattr(checks, "host_bytes", lambda: 24 * 2**30)
    monkeypatch.setattr(checks, "available", lambda: (24 * 2**30, 24 * 2**30))
    one = [f"--config.{flag}" for flag in ("mesh.data=1", "mesh.fsdp=1", "platform=any")]
    program = make(config.load(path, one))
    checks.check_memory(program)
    checks._check_products(program)
    assert sum(checks.needed(program).values()) > 0
