"""DCGAN on the embedded 8x8 digits: any machine can run it.

`gen-jax train --config=experiments/gan/digits_dcgan.py --workdir=runs/gan_digits_dcgan`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=6_000, batch_size=64))
    c.eval_every = c.save_every = 2_000
    c.data = dict(source="digits")
    c.model_name = "gan"
    c.model = dict(image=(8, 8, 1), net="dcgan", widths=(64, 32), hidden=128, latent=32, critic_norm="batch")
    c.model.label_smoothing, c.model.augment = 0.1, ("translation",)
    adam = dict(b1=0.5, b2=0.999, schedule="cosine")
    c.optim = dict(gen=dict(adam, ema=0.995), disc=dict(adam, lr=3e-4))
    c.eval_batch_size = 128
    c.evals = dict(
        critic=dict(type="mean"),
        pictures=dict(type="pictures", kinds=("samples",), n=100),
        generation=dict(type="generation", n=1_000),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 16, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.model.widths, c.model.hidden, c.model.latent, c.evals.pictures.n = (8, 4), 8, 4, 10
    c.evals.generation.update(n=64, kid_subsets=2, features=dict(recipe=dict(widths=(4,), features=8, epochs=1)))
    return c


EXPECT = [dict(note="Not run to its end: 6,000 steps.")]
