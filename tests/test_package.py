"""The package as its users install it: a wheel, in another folder, without the repository."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from members import CONFIGS, ROOT

import gen_jax
from gen_jax import config, config_file
from gen_jax.core import losses, optim
from gen_jax.errors import ConfigError


def test_configs_have_names():
    names = config_file.experiments()
    assert {str(Path(path).relative_to("experiments").with_suffix("")) for path in CONFIGS} == set(names)
    assert config.load("vae/digits:smoke", []) == config.load("experiments/vae/digits.py:smoke", [])


def test_a_wrong_name_lists_the_nearest():
    with pytest.raises(ConfigError, match=r"^--config: no file vae/digit; did you mean vae/digits\?$"):
        config.load("vae/digit", [])


def test_importing_it_starts_nothing():
    code = "import sys, gen_jax; assert gen_jax.__version__; assert 'jax' not in sys.modules; print(dir(gen_jax))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "train" in found.stdout
    assert gen_jax.train is sys.modules["gen_jax.train"] and callable(gen_jax.train)
    for name in ("nothing", "_core"):
        with pytest.raises(AttributeError, match=name):
            getattr(gen_jax, name)


def test_the_pure_functions_are_public():
    assert gen_jax.losses is losses and gen_jax.optim is optim


def run(*command, cwd):
    """What it prints."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A virtual environment with the wheel of gen_jax, and the packages of this one; its folder."""
    pytest.importorskip("setuptools", "77", reason="building needs setuptools of the extra [test]")
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"  # a build writes into its folder
    files = run("git", "ls-files", cwd=ROOT).splitlines()
    for name in files:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={folder}", source, cwd=folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(*pip, f"--python={folder / 'venv/bin/python'}", "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (site,) = (folder / "venv/lib").glob("*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.mark.slow
def test_a_wheel_works_in_another_folder(installed):
    (wheel,) = installed.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"gen_jax/experiments/vae/digits.py", "gen_jax/models/vae.py"} <= set(names)
    assert not [name for name in names if not name.startswith(("gen_jax/", "gen_jax-"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    elsewhere = installed / "elsewhere"
    elsewhere.mkdir()
    gen_jax_command = installed / "venv/bin/gen-jax"
    where = run(installed / "venv/bin/python", "-c", "import gen_jax; print(gen_jax.__file__)", cwd=elsewhere)
    assert where.startswith(str(installed / "venv"))
    run(gen_jax_command, "train", "--config=vae/digits:smoke", "--workdir=run", cwd=elsewhere)
    run(gen_jax_command, "sample", "--workdir=run", "--n=4", cwd=elsewhere)
    assert json.loads((elsewhere / "run/STATUS.json").read_text())["state"] == "done"
    assert list((elsewhere / "run/samples").glob("sample_*.png"))
    assert "latent: int > 0" in run(gen_jax_command, "list", "models", "vae", cwd=elsewhere)
    run(gen_jax_command, "export", "--workdir=run", "--out=exported", cwd=elsewhere)
    assert (elsewhere / "exported/model.safetensors").exists()
    code = "import gen_jax; print(gen_jax.load('run').sample(3).shape)"
    assert run(installed / "venv/bin/python", "-c", code, cwd=elsewhere).strip() == "(3, 8, 8, 1)"
