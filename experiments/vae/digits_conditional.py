"""Class-conditional VAE on the embedded digits: a row of samples a class.

`gen-jax train --config=experiments/vae/digits_conditional.py --workdir=runs/vae_digits_conditional`
then `gen-jax sample --workdir=runs/vae_digits_conditional --label=3`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=8_000, batch_size=128, steps_per_call=20))
    c.log_every, c.eval_every, c.save_every = 200, 4_000, 4_000
    c.data = dict(source="digits")
    c.model_name = "vae"
    c.model = dict(image=(8, 8, 1), widths=(256,), activation="gelu", latent=8, num_classes=10)
    c.optim = dict(net=dict(schedule="cosine", warmup=200, ema=0.999))
    c.eval_batch_size = 128
    c.evals = dict(
        elbo=dict(type="mean"),
        pictures=dict(type="pictures", kinds=("reconstruction", "samples"), n=100),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.model.widths, c.model.latent = (16,), 4
    c.optim.net.warmup = 2
    return c


EXPECT = [dict(minutes=0.3, metrics=[dict(metric="test/elbo", value=-20.36, tolerance=0.16, seeds=3, unit="nats")])]
