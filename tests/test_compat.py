"""The names of other packages that may move: each does here what gen_jax takes it for, and no other file takes one."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optuna
import pytest
from jax._src.clusters import ClusterEnv

from gen_jax import compat

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("gen_jax", "launch", "experiments") for path in (ROOT / folder).rglob("*.py"))
MOVING = ("jax._src", "jax.experimental", "jax.extend", "jax.interpreters", "jax.core", "jax.lib")
OTHERS = ("jax", "flax", "optax", "orbax", "grain", "clu", "optuna", "tensorboard", "tensorflow_datasets")


def moving(text: str) -> set[str]:
    """Modules that a file imports, and attributes that it reads, which no package promises."""
    tree, found = ast.parse(text), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
    private = {name for name in found if name.startswith(OTHERS) and "._" in name}
    return private | {name for name in found if name.startswith(MOVING)}


def test_one_file_takes_the_names_that_may_move():
    found = {str(file.relative_to(ROOT)): moving(file.read_text()) for file in FILES}
    assert [file for file, names in found.items() if names] == ["gen_jax/compat.py"], found


@pytest.mark.parametrize(
    "line",
    [
        "from jax._src.core import Jaxpr",
        "from jax import _src",
        "import jax.experimental.pallas",
        "from jax.experimental import multihost_utils",
        "def f():\n    return jax.extend.core.Literal",
        "optuna.trial._frozen",
        "import orbax.checkpoint._src",
    ],
)
def test_the_rule_catches_each_way(line):
    assert moving(line)
    assert not moving("import jax\nfrom jax.sharding import Mesh\nself._jax = jax.lax.scan")


def test_inner_jaxprs_are_listed_once():
    def body(x, _):
        return jax.lax.cond(x.sum() > 0, jnp.sin, jax.jit(jnp.cos), x), None

    (loop,) = jax.make_jaxpr(lambda x: jax.lax.scan(body, x, None, length=3)[0])(jnp.ones(2)).jaxpr.eqns
    (inner,) = compat.inner_jaxprs(loop)
    (choice,) = (one for one in inner.eqns if one.primitive.name == "cond")
    assert len(compat.inner_jaxprs(choice)) == 2
    assert compat.inner_jaxprs(jax.make_jaxpr(jnp.sin)(1.0).jaxpr.eqns[0]) == []


def test_what_no_result_needs_is_left_out():
    def fn(x):
        jnp.sin(x)
        return jnp.cos(x)

    names = [one.primitive.name for one in compat.live_jaxpr(jax.make_jaxpr(fn)(1.0).jaxpr).eqns]
    assert names == ["cos"]


def test_this_process_is_in_no_cluster_and_those_of_a_known_one_are_counted(monkeypatch):
    assert compat.cluster_processes() == 0

    class Seven(ClusterEnv):
        name = "seven"
        is_env_present = classmethod(lambda cls: True)
        get_process_count = classmethod(lambda cls: 7)

    monkeypatch.setattr(ClusterEnv, "_cluster_types", [Seven])
    assert compat.cluster_processes() == 7
    Seven.opt_in_only_method = True
    assert compat.cluster_processes() == 0


def test_the_state_of_a_run_of_one_process():
    state = compat.global_state
    assert (state.client, state.coordinator_address, state.process_id, state.num_processes) == (None, None, 0, 1)
    assert compat.multihost_utils.process_allgather(np.arange(3), tiled=True).tolist() == [0, 1, 2]


@pytest.mark.slow
def test_the_store_of_two_processes_holds_what_the_watch_puts_there():
    """The client's methods, by name: `watch` and `distributed` use them in threads, where an error would be late."""
    program = """
import jax, sys
from gen_jax import compat
jax.distributed.initialize("localhost:34781", 2, int(sys.argv[1]))
state, other = compat.global_state, 1 - int(sys.argv[1])
for text in ("old", "new"):
    state.client.key_value_set(f"names/{state.process_id}", text, allow_overwrite=True)
state.client.wait_at_barrier("both", 60_000)
assert dict(state.client.key_value_dir_get("names/")) == {"names/0": "new", "names/1": "new"}
assert state.coordinator_address == "localhost:34781" and state.num_processes == 2
"""
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    both = [subprocess.Popen([sys.executable, "-c", program, str(i)], env=env) for i in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]


def test_forgetting_the_cache_lets_it_be_asked_again(tmp_path):
    """jax asks once whether programs are kept, and keeps to it."""
    before, fn = jax.config.jax_compilation_cache_dir, lambda x: x * 3 + 41
    least = jax.config.jax_persistent_cache_min_compile_time_secs  # a command in this process may have raised it
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compat.reset_cache()
        jax.jit(fn)(1.0)
        assert list(tmp_path.iterdir())
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
        compat.reset_cache()


@pytest.mark.parametrize(
    ("variables", "chips", "kept"),
    [({}, 0, False), ({}, 4, True), ({"TPU_NAME": "a"}, 0, True), ({"JAX_PLATFORMS": "tpu,cpu"}, 0, True)],
)
def test_only_an_absent_tpu_is_left_alone(monkeypatch, variables, chips, kept):
    for name in [name for name in os.environ if name.startswith(("TPU_", "JAX_FORCE_TPU"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    factories = {"cpu": 1, "tpu": 2}
    monkeypatch.setattr(compat.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(compat.xla_bridge, "_backend_factories", factories)
    monkeypatch.setattr(compat.hardware_utils, "num_available_tpu_chips_and_device_id", lambda: (chips, None))
    compat.leave_absent_tpu()
    assert ("tpu" in factories) == kept and "cpu" in factories


def test_a_machine_without_a_tpu_hears_nothing_of_libtpu():
    """libtpu prints from C++ as soon as it looks for a TPU."""
    pytest.importorskip("libtpu")
    start = "from gen_jax import cli; cli._prepare_jax(deterministic=False); import jax; assert jax.devices()"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TPU_", "JAX_"))}
    done = subprocess.run([sys.executable, "-c", start], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_number_of_a_trial_opens_it_again():
    study = optuna.create_study()
    asked = study.ask()
    (frozen,) = study.trials
    again = optuna.Trial(study, compat.trial_id(frozen))
    again.set_user_attr("seen", 1)
    assert asked.user_attrs == {"seen": 1}
