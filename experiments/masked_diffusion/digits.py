"""Masked diffusion of the embedded 8x8 digits, binarised: the data of `vae/digits`.

`gen-jax train --config=experiments/masked_diffusion/digits.py --workdir=runs/masked`, or `:conditional`
`gen-jax sample --workdir=runs/masked --steps=200` sets few pixels at once.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, conditional=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=2_000, batch_size=128, steps_per_call=10))
    c.eval_every = c.save_every = 1_000
    c.data = dict(source="digits")
    c.model_name = "masked_diffusion"
    c.model = dict(image=(8, 8, 1), levels=2, layers=4, width=64, dropout=0.1)
    if arg.conditional:
        c.model.update(num_classes=10, class_dropout=0.1)
    c.optim = dict(net=dict(schedule="cosine", warmup=200, clip=1.0, ema=0.999))
    c.eval_batch_size = 180
    c.evals = dict(
        bound=dict(type="mean"),
        log_likelihood=dict(type="log_likelihood", num_samples=200, when="end"),
        pictures=dict(type="pictures", kinds=("samples", "inpainting"), n=100),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 4, 8, 8, 2
    c.model.update(layers=1, width=16)
    c.sampling, c.evals.pictures.n, c.evals.log_likelihood.num_samples = dict(steps=3), 10, 2
    return c


EXPECT = [
    dict(
        minutes=2,
        metrics=[
            dict(metric="test/elbo", value=-23.78, tolerance=0.5, unit="nats"),
            dict(
                metric="test/log_likelihood",
                value=-23.89,
                tolerance=0.3,
                unit="nats",
                published=-22.24,
                source="`vae/digits`, by importance samples",
            ),
        ],
        note="Both are the bound, by 8 and by 200 draws.",
    )
]
