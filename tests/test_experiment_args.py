"""What follows the colon of `--config=FILE.py:ARG`: a word that a config does not know is refused."""

import runpy

import pytest
from members import CONFIGS, ROOT

from gen_jax import config
from gen_jax.errors import ConfigError

FIELDS = {
    "experiments/vae/mnist_iwae.py": "k=5",
    "experiments/gan/ring.py": "loss=non_saturating",
    "experiments/vqvae/digits_prior.py": "run=there",
    "experiments/vqvae/mnist_prior.py": "run=there",
    "experiments/wavenet/spoken_digit.py": "output=logistic_mixture",
    "experiments/transformer/finetune.py": "scratch",
    "experiments/transformer/lines.py": "path=there",
}


@pytest.mark.parametrize("path", CONFIGS)
@pytest.mark.parametrize("arg", ["smok", "k5", "k=x", "smoke,k=5"])
def test_an_unknown_argument_is_refused(path, arg):
    with pytest.raises(ValueError, match=rf"expected smoke.* behind the colon, got '{arg}'"):
        runpy.run_path(str(ROOT / path))["get_config"](arg)


def test_the_user_sees_one_line():
    with pytest.raises(ConfigError, match=r"expected smoke behind the colon, got 'smok'"):
        config.load(str(ROOT / "experiments/vae/digits.py:smok"), [])


@pytest.mark.parametrize("path", CONFIGS)
def test_the_known_ones_are_heard(path):
    get_config = runpy.run_path(str(ROOT / path))["get_config"]
    plain = get_config().to_json()
    for arg in ("smoke", *filter(None, [FIELDS.get(path)])):
        assert get_config(arg).to_json() != plain
