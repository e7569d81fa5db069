"""Masked diffusion of binarised MNIST: its bound beside those of `vae/mnist_iwae` (`gen-jax data prepare mnist`).

`gen-jax train --config=experiments/masked_diffusion/mnist.py --workdir=runs/masked_mnist`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=5_000, batch_size=128))
    c.eval_every = c.save_every = 2_500
    c.data = dict(source="tfds", name="mnist", validation=0.0)
    c.model_name = "masked_diffusion"
    c.model = dict(image=(28, 28, 1), levels=2, patch=4)
    c.optim = dict(net=dict(schedule="cosine", warmup=500, clip=1.0, ema=0.999))
    c.eval_batch_size = 500
    c.evals = dict(
        bound=dict(type="mean"),
        log_likelihood=dict(type="log_likelihood", num_samples=32, when="end"),
        pictures=dict(type="pictures", kinds=("samples",), when="end", sampling=dict(steps=200)),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 16, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 2, 4, 4, 2
    c.data = dict(source="digits", size=28)
    c.model.update(layers=1, width=16)
    c.evals.log_likelihood.num_samples, c.evals.pictures.n, c.evals.pictures.sampling.steps = 2, 10, 3
    return c


EXPECT = [dict(note="Not run to its end.")]
