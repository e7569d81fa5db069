"""Class-conditional VAE on the embedded digits: a row of samples a class.

`gen-jax train --config=experiments/vae/digits_conditional.py --workdir=runs/vae_digits_conditional`
then `gen-jax sample --workdir=runs/vae_digits_conditional --label=3`
At most 20 s on 2 cores: test ELBO -20.33 nats.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    """`arg`: empty or `smoke`."""
    if arg not in ("", "smoke"):
        raise ValueError(f"expected smoke behind the colon, got {arg!r}")
    c = ConfigDict(dict(seed=0, total_steps=8_000, batch_size=128, steps_per_call=20, parallel="jit"))
    c.log_every, c.eval_every, c.save_every = 200, 4_000, 4_000
    c.data = dict(source="digits", order="permuted")
    c.model_name = "vae"
    c.model = dict(
        image=(8, 8, 1), net="mlp", widths=(256,), activation="gelu", latent=8, likelihood="bernoulli", num_classes=10
    )
    c.optim = dict(net=dict(name="adam", lr=1e-3, schedule="cosine", warmup=200, ema=0.999))
    c.mesh, c.sharding = dict(data=-1, model=1), ((".*", "replicate"),)
    c.eval_batch_size = 128
    c.evals = dict(
        elbo=dict(type="mean", split="test"),
        pictures=dict(type="pictures", split="test", kinds=("reconstruction", "samples"), n=100),
    )
    return smoke(c) if arg == "smoke" else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.model.widths, c.model.latent = (16,), 4
    c.optim.net.warmup = 2
    return c
