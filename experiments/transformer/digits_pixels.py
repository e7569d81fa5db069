"""A Transformer over the pixels of the embedded digits, conditioned on the digit; it draws row by row.

`gen-jax train --config=experiments/transformer/digits_pixels.py --workdir=runs/pixels`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=3_000, batch_size=64, steps_per_call=10))
    c.eval_every = c.save_every = 500
    c.data = dict(source="digits")
    c.model_name = "pixel_transformer"
    c.model = dict(image=(8, 8, 1), num_classes=10, width=64, dropout=0.2)
    c.optim = dict(net=dict(name="adamw", lr=2e-3, schedule="cosine", warmup=100, weight_decay=0.1, clip=1.0, ema=0.99))
    c.eval_batch_size = 200
    c.best = dict(metric="val/loss")
    c.evals = dict(
        validation=dict(type="mean", split="validation"),
        test=dict(type="mean"),
        pictures=dict(type="pictures", kinds=("samples",), n=100),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call = 8, 16, 2
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 4, 8, 8, 2
    c.model.layers, c.model.heads, c.model.width, c.evals.pictures.n = 2, 2, 16, 10
    return c


EXPECT = [
    dict(
        minutes=6,
        metrics=[
            dict(metric="test/bits_per_dim", value=1.693, tolerance=0.03),
            dict(metric="test/log_prob", value=-75.1, tolerance=1.3, unit="nats an image"),
        ],
        note="17 of the 256 grey levels occur, which the likelihood of vae/digits_residual cannot use.",
    )
]
