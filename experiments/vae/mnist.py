"""Convolutional VAE on dynamically binarised MNIST.

`gen-jax train --config=experiments/vae/mnist.py --workdir=runs/vae_mnist`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=8_000, batch_size=128))
    c.log_every, c.eval_every, c.save_every = 200, 2_000, 2_000
    c.data = dict(source="tfds", name="mnist")
    c.model_name = "vae"
    c.model = dict(net="conv", widths=(32, 64), latent=32)
    c.optim = dict(net=dict(schedule="cosine", warmup=500, ema=0.999))
    c.eval_batch_size = 128
    c.evals = dict(
        val=dict(type="mean", split="validation"),
        elbo=dict(type="mean"),
        # one chunk of samples for each batch: convolutions are slow inside a loop on CPU
        log_likelihood=dict(
            type="log_likelihood",
            prefix="first_1280_",
            num_samples=128,
            max_examples=1_280,
            when="end",
        ),
        active_units=dict(type="active_units"),
        pictures=dict(type="pictures", kinds=("reconstruction", "samples", "interpolation", "traversal")),
        generation=dict(type="generation"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 16, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.data = dict(source="digits", size=28)
    c.model.widths, c.model.latent = (4, 8), 4
    c.evals.log_likelihood.num_samples, c.evals.log_likelihood.max_examples = 8, 64
    c.evals.generation.update(n=64, kid_subsets=2, features=dict(recipe=dict(widths=(4,), features=8, epochs=1)))
    c.optim.net.warmup = 2
    return c


EXPECT = [
    dict(
        minutes=5,
        metrics=[
            dict(metric="test/elbo", value=-98.08, tolerance=0.5, unit="nats"),
            dict(metric="test/first_1280_log_likelihood", value=-93.5, tolerance=0.5, unit="nats"),
            dict(metric="test/fid", value=19.8, tolerance=3.0, published=0.23, source="real images"),
        ],
        note="FID in the features of a classifier of 99.41 %, with 10,000 samples.",
    )
]
