"""A class-conditional MeanFlow on the embedded 8x8 digits: each sample is one network evaluation.

`gen-jax train --config=experiments/mean_flow/digits.py --workdir=runs/mean_flow_digits`, or `:objective=shortcut`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, objective=("mean_flow", "shortcut"))


def get_config(arg):
    c = ConfigDict(dict(total_steps=1_500, batch_size=128, steps_per_call=10))
    c.eval_every = c.save_every = 500
    c.data = dict(source="digits")
    c.model_name = "mean_flow"
    c.model = dict(image=(8, 8, 1), num_classes=10, objective=arg.objective)
    c.model.update(layers=4, width=96, instant=0.25)
    c.optim = dict(net=dict(lr=2e-3, schedule="cosine", warmup=200, clip=1.0, ema=0.999))
    c.eval_batch_size = 128
    c.evals = dict(
        loss=dict(type="mean"),
        pictures=dict(type="pictures", kinds=("samples",), n=100),
        generation=dict(type="generation", n=1_000),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 4, 8, 8, 2
    c.model.update(patch=4, layers=1, width=16)
    c.evals.pictures.n = 10
    c.evals.generation.update(n=64, kid_subsets=2, features=dict(recipe=dict(widths=(4,), features=8, epochs=1)))
    return c


EXPECT = [
    dict(
        minutes=2.5,
        metrics=[
            dict(metric="test/fid", value=5.9, tolerance=1.5, published=4.54, source="diffusion, 25 evaluations"),
            dict(metric="test/as_asked", value=0.978, tolerance=0.03, published=0.922, source="test images"),
        ],
        note="FID of 1,000 samples of one evaluation in the features of a classifier of 92.2 %.",
    )
]
