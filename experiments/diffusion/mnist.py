"""A class-conditional diffusion Transformer on MNIST (`gen-jax data prepare mnist`).

`gen-jax train --config=experiments/diffusion/mnist.py --workdir=runs/diffusion_mnist`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=8_000, batch_size=64, steps_per_call=5))
    c.eval_every = c.save_every = 1_000
    c.data = dict(source="tfds", name="mnist")
    c.model_name = "diffusion"
    c.model = dict(image=(28, 28, 1), num_classes=10, class_dropout=0.1, patch=4)
    c.optim = dict(net=dict(schedule="cosine", warmup=200, clip=1.0, ema=0.999))
    c.sampling = dict(steps=50)
    c.eval_batch_size = 128
    c.evals = dict(
        bound=dict(type="mean"),
        pictures=dict(type="pictures", kinds=("samples",), n=100),
        generation=dict(type="generation"),
        guided=dict(type="generation", n=1_000, sampling=dict(steps=50, guidance=2.0)),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 4, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 2, 4, 4, 2
    c.data = dict(source="digits", size=28)
    c.model.update(patch=14, layers=1, width=16)
    c.sampling.steps, c.evals.guided.sampling.steps, c.evals.pictures.n = 3, 3, 10
    for name in ("generation", "guided"):
        features = dict(recipe=dict(widths=(4,), features=8, epochs=1))
        c.evals[name].update(n=64, kid_subsets=2, features=features)
    return c
