"""The guard against NaN: what it names, and what `gen-jax replay` finds of it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import smoke

from gen_jax import cli
from gen_jax.core import optim
from gen_jax.core.gradients import Terms, step_together
from gen_jax.core.state import Mean, Net, State
from gen_jax.errors import NonFiniteError
from gen_jax.io import paths
from gen_jax.models import gan, vae
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train
from gen_jax.training.nonfinite import Guard, batch_of
from gen_jax.training.origin import origin
from gen_jax.training.program import Program

VAE, RING = "experiments/vae/digits_ppca.py", "experiments/gan/ring.py"


def test_the_guard_names_terms_network_and_command(workdir):
    with pytest.raises(NonFiniteError) as error:
        train(smoke(RING, "steps_per_call=1", "log_every=1", "optim.disc.lr=1e25"), workdir)
    line = str(error.value)
    assert "train/critic_loss is " in line and ", network disc" in line
    assert line.endswith(f"gen-jax replay --workdir={paths.shortest(workdir)} names the operation")


def test_the_guard_names_the_network_of_a_parameter(tmp_path):
    program = Program(smoke(RING))
    nets = {name: Net({"bias": jnp.array([0.0, bad])}, (), {}, None) for name, bad in (("disc", 1), ("gen", jnp.inf))}
    with pytest.raises(NonFiniteError, match=r"^nets/gen/params/bias is not finite at step 7, network gen; see"):
        Guard(program, RunDir(tmp_path)).check_state(State(jnp.int32(7), nets), 7)
    with np.load(tmp_path / "failed" / "batch.npz") as kept:
        np.testing.assert_array_equal(kept["vector"], batch_of(program, 6)["vector"])


def plant(monkeypatch, factor):
    """The VAE's loss is multiplied by `factor` of the step, counted from 0."""
    terms = vae.VAE.terms

    def planted(self, *args, step, **kwargs):
        found = terms(self, *args, step=step, **kwargs)
        loss = found.means["loss"]
        found.means["loss"] = Mean(loss.total * factor(step), loss.weight)
        return found

    monkeypatch.setattr(vae.VAE, "terms", planted)


def nan_in_the_third_step(step):
    return jnp.where(step == 2, jnp.nan, 1.0)


@pytest.mark.slow
def test_replay_names_the_operation_of_a_vae(workdir, monkeypatch, capsys):
    """A planted root of a negative number in step 3, resumed from the checkpoint of step 2."""
    plant(monkeypatch, lambda step: jnp.sqrt(jnp.where(step == 2, -1.0, 1.0)))  # planted
    with pytest.raises(NonFiniteError, match=r"train/loss is nan at step 3, network net;"):
        train(smoke(VAE, "steps_per_call=1", "log_every=1", "save_every=2"), workdir)
    cli.main(["replay", f"--workdir={workdir}"])
    line = capsys.readouterr().out.splitlines()[0]
    number = next(
        i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("  # planted")
    )
    assert line.startswith("step 3: NaN first from sqrt") and line.endswith(f"{__file__}:{number}")
    with np.load(f"{workdir}/failed/state.npz") as state, np.load(f"{workdir}/failed/batch.npz") as batch:
        assert state["step"] == 2 and batch["image"].dtype == np.uint8
    assert json.loads(Path(workdir, "failed/step.json").read_text())["step"] == 3


@pytest.mark.slow
def test_replay_names_the_operation_of_a_gan(workdir, monkeypatch, capsys):
    """The critic's loss is finite, its gradient is not: the root of 0 in its second step."""
    critic = gan.GAN.critic_terms

    def planted(self, disc, *args, update=0, **kwargs):
        found = critic(self, disc, *args, update=update, **kwargs)
        weight = jax.tree.leaves(disc["params"])[0].sum()
        loss = found.means["loss"]
        root = jnp.sqrt(jnp.where(update == self.n_critic, 0.0, 1.0) * (1 + weight**2))
        found.means["loss"] = Mean(loss.total + root, loss.weight)
        return found

    monkeypatch.setattr(gan.GAN, "critic_terms", planted)
    with pytest.raises(NonFiniteError, match=r"train/critic_grad_norm is nan.*at step 2, network disc, gen;"):
        train(smoke(RING, "steps_per_call=1", "log_every=1", "save_every=0"), workdir)
    cli.main(["replay", f"--workdir={workdir}"])
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("step 2: NaN first from mul in ") and "test_nonfinite.py:" in line


def test_replay_refuses_a_run_without_a_failed_step(tmp_path, capsys):
    train(smoke(RING, "total_steps=2", "steps_per_call=1", "log_every=1", "eval_every=0", "save_every=0"), tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["replay", f"--workdir={tmp_path}"])
    assert end.value.code == 2
    assert "gen-jax: workdir: expected a run with a step that is not finite" in capsys.readouterr().err


def _scan(x):
    return jax.lax.scan(lambda c, row: (c - 1, jnp.log(c * row)), x, jnp.ones(3))[1]


@pytest.mark.parametrize(
    ("function", "kind", "operation"),
    [
        (_scan, "NaN", "log"),  # of the third turn
        (lambda x: jax.lax.cond(x > 0, lambda x: jnp.sqrt(-x), lambda x: x, x), "NaN", "sqrt"),
        (lambda x: jnp.where(x > 0, x, jnp.sqrt(-x)) + jax.jit(jnp.arccos)(x + 2), "NaN", "acos"),
        (lambda x: (x * 1e38) * 1e5, "infinity", "mul"),
        (jax.grad(lambda x: jnp.sqrt(x - 1.5)), "infinity", "div"),
    ],
)
def test_origin(function, kind, operation):
    """Only what the result depends on counts: a root that `where` throws away does not."""
    found = origin(function, jnp.float32(1.5))
    assert found is not None and (found.kind, found.operation) == (kind, operation)
    assert found.line.startswith(__file__)


def test_origin_of_what_is_finite():
    assert origin(lambda x: jnp.exp(-1 / x), jnp.zeros(())) is None


SKIPS = (
    "steps_per_call=1",
    "log_every=1",
    "total_steps=5",
    "eval_every=0",
    "save_every=0",
    "optim.net.ema=0.9",
    "optim.net.schedule_steps=5",
)


def test_skip_nonfinite_leaves_the_network_and_counts(tmp_path, monkeypatch, capsys):
    """The skipped third update changes nothing but the step; the run ends with its count, and resumes with it."""
    plant(monkeypatch, nan_in_the_third_step)

    def config(steps):
        return smoke(VAE, *SKIPS, "optim.net.skip_nonfinite=True", f"total_steps={steps}")

    two = train(config(2), tmp_path / "a")
    three = train(config(3), tmp_path / "a")
    jax.tree.map(np.testing.assert_array_equal, two.nets, three.nets)
    assert three.step == 3
    resumed, whole = train(config(5), tmp_path / "a"), train(config(5), tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert not np.array_equal(*(jax.tree.leaves(state.nets["net"].params)[0] for state in (three, whole)))
    lines = capsys.readouterr().err.splitlines()
    assert lines.count("alarm_skipped_net in the whole run: 1 of 5") == 2
    assert "warning: step 3: train/alarm_skipped_net in 100% of the steps since the last row" in lines
    rows = {row["step"]: row for row in RunDir(tmp_path / "b").rows()}
    assert "train/loss" not in rows[3] and rows[4]["train/alarm_skipped_net"] == 0 and rows[4]["train/loss"] > 0


def test_a_run_that_failed_continues_with_skip_nonfinite(tmp_path, monkeypatch):
    plant(monkeypatch, nan_in_the_third_step)
    with pytest.raises(NonFiniteError):
        train(smoke(VAE, *SKIPS), tmp_path)
    state = train(smoke(VAE, *SKIPS, "optim.net.skip_nonfinite=True"), tmp_path, override=True)
    assert state.step == 5


def linear(slope):
    """A loss whose gradient is `slope` of the batch."""

    def loss(params, stats, batch, rng):
        return Terms({"loss": Mean.of(params["w"] * batch["x"] * slope)}, stats)

    return loss


@pytest.mark.parametrize(("x", "moved"), [(2.0, True), (3.0, True), (3.01, False), (jnp.nan, True), (jnp.inf, False)])
def test_skip_above_compares_the_norm(x, moved):
    """w = 1, gradient x, sgd of rate 1; a NaN is not above anything: the run ends there, unless it is skipped too."""
    for also in (False, True):
        cfg = optim.Config(name="sgd", lr=1.0, skip_above=3.0, skip_nonfinite=also)
        optimizer = optim.build(cfg, 10, net="w")
        net = optimizer.init({"params": {"w": jnp.ones(())}})
        net, terms = optimizer.step(net, linear(1.0), {"x": jnp.full(1, x)}, jax.random.key(0))
        made = moved and not (also and jnp.isnan(x))
        np.testing.assert_allclose(net.params["w"], 1 - x if made else 1)
        assert terms.means["alarm_skipped_w"].total == 1 - made and terms.means["loss"].weight == made
        assert terms.means["grad_norm"].net == "w"


def test_networks_down_one_loss_skip_for_themselves():
    """a's gradient is 2, b's 20: b stays."""
    built = {net: optim.build(optim.Config(name="sgd", lr=1.0, skip_above=3.0), 10, net=net) for net in "ab"}
    nets = {net: built[net].init({"params": {"w": jnp.ones(())}}) for net in "ab"}

    def loss(params, stats, batch, rng):
        return Terms({"loss": Mean.of((2 * params["a"]["w"] + 20 * params["b"]["w"]) * batch["x"])}, stats)

    nets, terms = step_together(built, nets, loss, {"x": jnp.ones(1)}, jax.random.key(0))
    assert [float(nets[net].params["w"]) for net in "ab"] == [-1, 1]
    assert [float(terms.means[f"alarm_skipped_{net}"].total) for net in "ab"] == [0, 1]
    assert terms.means["loss"].weight == 0 and terms.means["b_grad_norm"].net == "b"


def test_a_metric_that_is_not_finite_is_a_warning(tmp_path, capsys):
    """The first update is so large that the loss of what follows is NaN; the evaluators still run."""
    flags = ("optim.net.lr=1e30", "optim.net.skip_nonfinite=True", "optim.net.clip=0", "total_steps=2")
    shared = ("--config.steps_per_call=1", "--config.log_every=1", "--config.optim.net.schedule=constant")
    schedule = ("--config.optim.net.end=None",)
    command = ["train", f"--config={VAE}:smoke", f"--workdir={tmp_path}", *shared, *schedule]
    cli.main([*command, *(f"--config.{flag}" for flag in flags)])
    out, err = capsys.readouterr()
    assert "  test/elbo not finite" in out.splitlines()
    assert any(line.startswith("warning: step 2: not finite: test/elbo") for line in err.splitlines())
