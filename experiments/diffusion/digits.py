"""A class-conditional diffusion Transformer on the embedded 8x8 digits.

`gen-jax train --config=experiments/diffusion/digits.py --workdir=runs/diffusion_digits`
`gen-jax sample --workdir=runs/diffusion_digits --guidance=2` follows the class more closely.
`:kind=flow` is a rectified flow, whose paths `diffusion/reflow` straightens.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, kind=("diffusion", "flow"))
FLOW = dict(curve="flow", scaling="flow", lambda_max=18.0, lambda_min=-18.0, target="u", weighting="u")


def get_config(arg):
    c = ConfigDict(dict(total_steps=2_000, batch_size=128, steps_per_call=10))
    c.eval_every = c.save_every = 1_000
    c.data = dict(source="digits")
    c.model_name = "diffusion"
    c.model = dict(image=(8, 8, 1), num_classes=10, class_dropout=0.1)
    c.model.update(layers=4, width=96, dropout=0.1)
    c.model.update(FLOW if arg.kind == "flow" else {})
    c.optim = dict(net=dict(schedule="cosine", warmup=200, clip=1.0, ema=0.999))
    c.eval_batch_size = 128
    c.evals = dict(
        bound=dict(type="mean"),
        pictures=dict(type="pictures", kinds=("samples",), n=100),
        generation=dict(type="generation", n=1_000),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 4, 8, 8, 2
    c.model.update(patch=4, layers=1, width=16)
    c.sampling, c.evals.pictures.n = dict(steps=3), 10
    c.evals.generation.update(n=64, kid_subsets=2, features=dict(recipe=dict(widths=(4,), features=8, epochs=1)))
    return c


EXPECT = [
    dict(
        minutes=3,
        metrics=[
            dict(metric="test/fid", value=4.54, tolerance=0.8, published=5.2, source="training images"),
            dict(metric="test/as_asked", value=0.918, tolerance=0.03, published=0.922, source="test images"),
            dict(metric="test/elbo", value=-271.8, tolerance=15.0, unit="nats"),
        ],
        note="FID of 1,000 samples in the features of a classifier of 92.2 %.",
    )
]
