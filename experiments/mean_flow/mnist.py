"""A class-conditional MeanFlow on MNIST: each sample is one network evaluation.

`gen-jax train --config=experiments/mean_flow/mnist.py --workdir=runs/mean_flow_mnist`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=4_000, batch_size=128, steps_per_call=5))
    c.eval_every = c.save_every = 1_000
    c.data = dict(source="tfds", name="mnist")
    c.model_name = "mean_flow"
    c.model = dict(image=(28, 28, 1), num_classes=10, patch=4, instant=0.25)
    c.optim = dict(net=dict(schedule="cosine", warmup=200, clip=1.0, ema=0.999))
    c.eval_batch_size = 128
    c.evals = dict(
        loss=dict(type="mean"),
        pictures=dict(type="pictures", kinds=("samples",), n=100),
        generation=dict(type="generation"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 4, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 2, 4, 4, 2
    c.data = dict(source="digits", size=28)
    c.model.update(patch=14, layers=1, width=16)
    c.evals.pictures.n = 10
    c.evals.generation.update(n=64, kid_subsets=2, features=dict(recipe=dict(widths=(4,), features=8, epochs=1)))
    return c


EXPECT = [dict(note="Not run to its end: 4,000 steps.")]
