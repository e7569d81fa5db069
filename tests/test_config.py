"""Configs: every default filled in, flags applied, each wrong value refused in one line that names the key."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from gen_jax import config
from gen_jax.core import optim
from gen_jax.errors import ConfigError
from gen_jax.training.program import Program

DIGITS = "experiments/vae/digits.py:smoke"


def raw(**changes):
    c = config.to_dict(config.load(DIGITS, []))
    for key, value in changes.items():
        section, *path = key.split("__")
        inner = c
        for name in [section, *path][:-1]:
            inner = inner[name]
        inner[[section, *path][-1]] = value
    return c


def test_resolving_twice_changes_nothing():
    once = config.load(DIGITS, [])
    assert config.resolve(config.to_dict(once)) == once
    assert config.resolve(ConfigDict(config.to_dict(once))) == once


def test_flags_reach_fields_that_the_file_does_not_name():
    flags = ["--config.optim.net.lr=3e-4", "--config.model.beta=4", "--config.seed=7", "--config.model.widths=(8,)"]
    experiment = config.load(DIGITS, flags)
    assert experiment.optim["net"].lr == 3e-4
    assert experiment.model.beta == 4.0
    assert experiment.seed == 7
    assert experiment.model.widths == (8,)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.optim.net.lrr=1", r"config\.optim\.net\.lrr: unknown key; did you mean lr\?"),
        ("--config.optim.net.lr=nan", r"config\.optim\.net\.lr: expected a finite number"),
        ("--config.optim.net.lr=-1", r"config\.optim\.net\.lr: expected greater than 0|should be greater than 0"),
        ("--config.optim.net.lr=fast", r"config\.optim\.net\.lr"),
        ("--config.optim.net.momentum=0.9", r"config\.optim\.net\.momentum: expected None where name is 'adam'"),
        ("--config.optim.net.b2=1.5", r"config\.optim\.net\.b2: .*less than 1"),
        ("--config.optim.net.warmup=9", r"config\.optim\.net\.warmup: expected at most 8, the steps, got 9"),
        ("--config.optim.net.name=adamm", r"config\.optim\.net\.name: expected .*'adam'"),
        ("--config.total_steps=-5", r"config\.total_steps"),
        ("--config.total_steps=3", r"config\.total_steps: expected a multiple of steps_per_call = 2"),
        ("--config.model.likelihood=poisson", r"config\.model\.likelihood: expected 'bernoulli'"),
        ("--config.data.source=digit", r"data\.source"),
        ("--config.seed=abc", r"config\.seed: expected an integer, got 'abc'"),
        ("--config.seed=True", r"config\.seed: expected an integer, got True"),
        ("--config.total_steps=1000000000000", r"config\.total_steps: expected .*2147483647"),
        (f"--config.batch_size={10**30}", r"config\.batch_size: expected"),
        ("--config.optim.net=3", r"config\.optim\.net: expected a section.*got 3"),
        ("--config.mesh=None", r"config\.mesh: expected a section.*got None"),
        ("--config.evals=3", r"config\.evals: expected a section.*got 3"),
        ("--config.data=x", r"config\.data: expected a section.*'x'"),
        ("--config.model.widths=" + "(" * 5000, r"config\.model\.widths"),
        ("--config.init_from.workdir=~nosuchuser/run", r"config\.init_from\.workdir: expected a path"),
        ("--config.data={'source': 'npz', 'path': ''}", r"config\.data\.path: expected a path, got ''"),
        ("--config.best.patience=3", r"config\.best\.patience: expected 0 where best\.metric is empty, got 3"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_the_key(flag, message):
    with pytest.raises(ConfigError, match=message) as error:
        config.load(DIGITS, [flag])
    assert "\n" not in str(error.value)


def test_a_section_given_by_a_flag_replaces_the_keys_that_it_names():
    experiment = config.load(DIGITS, ["--config.optim.net={'lr': 1.0}", "--config.model.widths=8"])
    assert experiment.optim["net"] == config.load(DIGITS, []).optim["net"].model_copy(update={"lr": 1.0})
    assert experiment.model.widths == (8,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def get_config(arg=''):\n    x = 1\n    raise KeyError('boom')\n", "bad.py:3: KeyError: 'boom'"),
        ("x = 1\nimport nowhere_at_all\n", "bad.py:2: ModuleNotFoundError"),
        ("def get_config(:\n", "bad.py:1: SyntaxError"),
        ("import sys\ndef get_config(arg=''):\n    sys.exit('no')\n", "bad.py:3: SystemExit: no"),
        ("import sys\nsys.exit(3)\n", "bad.py:2: SystemExit: 3"),
        ("x = 1\n", "expected a function get_config(arg), found none"),
        ("get_config = 3\n", "expected a function get_config(arg), found none"),
        ("def get_config(arg=''): return None\n", "expected get_config to return a ConfigDict, got None"),
        ("def get_config(): return None\n", "bad.py: TypeError"),
        (
            "from ml_collections import ConfigDict\ndef get_config(arg=''): return ConfigDict({'a': print})\n",
            "bad.py: config.a: ",
        ),
        (
            "from ml_collections import ConfigDict\ndef get_config(arg=''):\n    c = ConfigDict()\n    c.model = c\n"
            "    return c\n",
            "bad.py: config.model: expected no section or list within itself",
        ),
        ("async def get_config(arg=''): return 1\n", "expected get_config to return a ConfigDict, got <coroutine"),
    ],
)
def test_a_config_file_that_fails_is_one_line_with_file_and_line(tmp_path, text, says):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(ConfigError) as error:
        config.load(str(tmp_path / "bad.py"), [])
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("path", "updates"), [("gan/ring.py", {"gen": 1, "disc": 3}), ("vae/digits.py", {"net": 1})])
def test_a_schedule_counts_the_updates_of_its_network(path, updates, monkeypatch):
    flags = ["--config.total_steps=40", *["--config.model.n_critic=3"] * ("disc" in updates)]
    experiment, seen, build = config.load(f"experiments/{path}:smoke", flags), {}, optim.build

    def note(cfg, total, *rest):
        seen[id(cfg)] = total
        return build(cfg, total, *rest)

    monkeypatch.setattr(optim, "build", note)
    Program(experiment.model_copy(update={"batch_size": 48}))
    assert {name: seen[id(cfg)] for name, cfg in experiment.optim.items()} == {n: 40 * u for n, u in updates.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "vea"}, "config.model_name: unknown name 'vea'; did you mean vae?"),
        ({"steps_per_cal": 2}, "config.steps_per_cal: unknown key; did you mean steps_per_call?"),
        ({"model__latnt": 2}, "config.model.latnt: unknown key; did you mean latent?"),
        ({"optim__net__weight_dcay": 2}, "config.optim.net.weight_dcay: unknown key; did you mean weight_decay?"),
        ({"mesh__date": 2}, "config.mesh.date: unknown key; did you mean data?"),
        ({"evals__elbo__typ": 2}, "config.evals.elbo.typ: unknown key; did you mean type?"),
        ({"evals__elbo__type": "maen"}, "config.evals.elbo.type: unknown name 'maen'; did you mean mean?"),
        ({"data__sizee": 2}, "config.data.sizee: unknown key; did you mean size?"),
        ({"data": 3}, "config.data.source: expected one of"),
    ],
)
def test_a_wrong_section_names_the_nearest_key(changes, message):
    with pytest.raises(ConfigError) as error:
        config.resolve(raw(**changes))
    assert str(error.value).startswith(message)


def test_a_missing_file_lists_the_nearest():
    with pytest.raises(
        ConfigError, match=r"no file experiments/vae/digit\.py; did you mean experiments/vae/digits\.py"
    ):
        config.load("experiments/vae/digit.py", [])


def test_replaced_values_are_what_the_same_flags_make():
    path, values = "experiments/vae/digits.py:smoke", {"model.widths": [8, 4], "optim.net.lr": 1e-2, "seed": 3}
    flags = [f"--config.{key}={tuple(value) if key == 'model.widths' else value}" for key, value in values.items()]
    assert config.replaced(config.load(path, []), values) == config.load(path, flags)
    for key, named in {"model.widht": "model.widht", "seed.x": "seed.x", "modle.width": "modle"}.items():
        with pytest.raises(ConfigError, match=f"^config.{named}: unknown key"):
            config.replaced(config.load(path, []), {key: 1})


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (len, "config.model.latent: expected a number, a text, a list or a section, got <built-in function len>"),
        ({8}, "config.model.latent: expected a number, a text, a list or a section, got {8}"),
        (True, "config.model.latent: expected an integer, got True"),
        (placeholder(int, required=True), "config.model.latent: expected a value, found an empty placeholder"),
        (np.arange(2), "config.model.latent: expected a valid integer, got [0, 1]"),
        ("8", "config.model.latent: expected an integer, got '8'"),
        (10**30, "config.model.latent: expected less than or equal to 9223372036854775807, got 1000"),
    ],
)
def test_an_odd_value_in_a_file_is_named(value, says):
    c = ConfigDict(raw())
    c.model = ConfigDict({**c.model, "latent": value})
    with pytest.raises(ConfigError) as error:
        config.resolve(c)
    assert str(error.value).startswith(says)


def test_values_that_mean_a_number_are_taken():
    c = ConfigDict(raw())
    c.model = ConfigDict({**c.model, "latent": np.int64(3), "widths": np.array([8, 4])})
    c.batch_size = c.get_ref("eval_batch_size")
    found = config.resolve(c)
    assert (found.model.latent, found.model.widths, found.batch_size) == (3, (8, 4), c.eval_batch_size)


def test_a_dict_is_merged_into_its_section_and_the_last_flag_counts():
    before = config.load(DIGITS, []).optim["net"]
    found = config.load(DIGITS, ["--config.optim.net.lr=2", "--config.optim.net={'lr': 1, 'clip': 3}"]).optim["net"]
    assert found == before.model_copy(update={"lr": 1.0, "clip": 3.0})
    found = config.load(DIGITS, ["--config.optim.net={'lr': 1}", "--config.optim.net.lr=2"]).optim["net"]
    assert found == before.model_copy(update={"lr": 2.0})


def test_a_new_evaluator_has_a_type_and_a_typo_is_none():
    found = config.load(DIGITS, ["--config.evals.more.type=mean", "--config.evals.more.split=validation"]).evals
    assert (found["more"].type, found["more"].split) == ("mean", "validation")
    with pytest.raises(ConfigError, match=r"config\.evals\.elbw: unknown key; did you mean elbo\?"):
        config.load(DIGITS, ["--config.evals.elbw.split=train"])


def test_a_field_without_a_value_takes_one_from_a_flag_and_gives_it_back():
    path = "experiments/transformer/shakespeare_char_cpu.py:smoke"
    assert config.load(path, ["--config.optim.net.b1=0.8"]).optim["net"].b1 == 0.8
    sgd = config.load(path, [f"--config.optim.net.{flag}" for flag in ("name=sgd", "b2=None", "momentum=0.9")])
    assert sgd.optim["net"].b2 is None
    assert sgd.optim["net"].read() == {"momentum": 0.9, "schedule_steps": 0, "end": 0.1}
    assert config.resolve(config.to_dict(sgd)) == sgd
