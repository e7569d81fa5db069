"""DCGAN on the embedded 8x8 digits: any machine can run it.

`gen-jax train --config=experiments/gan/digits_dcgan.py --workdir=runs/gan_digits_dcgan`
On 2 cores it was not run to its end: 6,000 steps.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    """`arg`: empty or `smoke`."""
    if arg not in ("", "smoke"):
        raise ValueError(f"expected smoke behind the colon, got {arg!r}")
    c = ConfigDict(dict(seed=0, total_steps=6_000, batch_size=64, steps_per_call=1, parallel="jit"))
    c.log_every, c.eval_every, c.save_every = 100, 2_000, 2_000
    c.data = dict(source="digits", order="permuted")
    c.model_name = "gan"
    c.model = dict(
        image=(8, 8, 1), net="dcgan", widths=(64, 32), hidden=128, latent=32, loss="non_saturating", critic_norm="batch"
    )
    c.model.label_smoothing, c.model.augment = 0.1, ("translation",)
    adam = dict(name="adam", lr=1e-3, b1=0.5, b2=0.999, schedule="cosine")
    c.optim = dict(gen=dict(adam, ema=0.995), disc=dict(adam, lr=3e-4))
    c.mesh, c.sharding = dict(data=-1, model=1), ((".*", "replicate"),)
    c.eval_batch_size = 128
    c.evals = dict(
        critic=dict(type="mean", split="test"),
        pictures=dict(type="pictures", split="test", kinds=("samples",), n=100),
        generation=dict(type="generation", split="test", n=1_000),
    )
    return smoke(c) if arg == "smoke" else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 16, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.model.widths, c.model.hidden, c.model.latent, c.evals.pictures.n = (8, 4), 8, 4, 10
    c.evals.generation.update(n=64, kid_subsets=2, features=dict(recipe=dict(widths=(4,), features=8, epochs=1)))
    return c
