"""The quickstart: a VAE on the embedded 8x8 handwritten digits.

`gen-jax train --config=experiments/vae/digits.py --workdir=runs/vae_digits`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=12_000, batch_size=128, steps_per_call=20))
    c.log_every, c.eval_every, c.save_every = 200, 4_000, 4_000
    c.data = dict(source="digits")
    c.model_name = "vae"
    c.model = dict(image=(8, 8, 1), widths=(256, 256), activation="gelu", latent=16)
    c.optim = dict(net=dict(schedule="cosine", warmup=200, ema=0.999))
    c.eval_batch_size = 128
    c.evals = dict(
        elbo=dict(type="mean"),
        log_likelihood=dict(type="log_likelihood", num_samples=500, when="end"),
        active_units=dict(type="active_units"),
        pictures=dict(type="pictures", kinds=("reconstruction", "samples", "interpolation")),
    )
    return smoke(c) if arg.smoke else c


def sweep(s):
    """`gen-jax sweep --config=experiments/vae/digits.py --workdir=sweeps/vae_digits --workers=2`"""
    s.set("evals.elbo.split", "validation")
    s.maximize("val/elbo")
    s.log_uniform("optim.net.lr", 1e-4, 1e-2)
    s.choice("model.widths", ((64, 64), (256, 256)))
    if s.choice("optim.net.schedule", ("constant", "cosine")) == "cosine":
        s.choice("optim.net.end", (0.0, 0.01, 0.1))


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 4, 8, 8, 2
    c.model.widths, c.model.latent, c.evals.log_likelihood.num_samples = (16, 16), 4, 20
    return c


EXPECT = [
    dict(
        minutes=0.7,
        metrics=[
            dict(metric="test/elbo", value=-22.79, tolerance=0.12, seeds=3, unit="nats"),
            dict(metric="test/log_likelihood", value=-22.24, tolerance=0.08, seeds=3, unit="nats"),
        ],
    )
]
