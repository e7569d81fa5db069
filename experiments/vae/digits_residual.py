"""Residual VAE on the grey levels of the embedded digits, with a discretised mixture of logistics.

`gen-jax train --config=experiments/vae/digits_residual.py --workdir=runs/vae_digits_residual`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=2_000, batch_size=128))
    c.eval_every = c.save_every = 1_000
    c.data = dict(source="digits")
    c.model_name = "vae"
    c.model = dict(
        image=(8, 8, 1),
        net="residual",
        widths=(32, 64),
        activation="silu",
        latent=16,
        likelihood="logistic_mixture",
        warmup="linear",
        warmup_steps=500,
        free_bits=0.05,
    )
    c.optim = dict(net=dict(schedule="cosine", warmup=200, clip=200.0, ema=0.999))
    c.eval_batch_size = 128
    c.evals = dict(
        elbo=dict(type="mean"),
        active_units=dict(type="active_units"),
        pictures=dict(type="pictures", kinds=("reconstruction", "samples", "interpolation")),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 16, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.model.widths, c.model.latent, c.model.mixtures, c.model.warmup_steps = (4, 8), 4, 2, 4
    c.optim.net.warmup = 2
    return c


EXPECT = [
    dict(
        minutes=2.5,
        metrics=[
            dict(metric="test/bits_per_dim", value=3.831, tolerance=0.04),
            dict(metric="test/elbo", value=-169.96, tolerance=2.0, unit="nats"),
        ],
    )
]
