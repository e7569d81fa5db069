"""Short runs of a VAE on the digits."""

from gen_jax import config

DIGITS = "experiments/vae/digits.py:smoke"


def digits(*flags):
    return config.load(DIGITS, [f"--config.{flag}" for flag in ("mesh.data=1", *flags)])


LONG = ("total_steps=24", "log_every=4", "eval_every=8", "save_every=6")
