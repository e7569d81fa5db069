"""AR(3) on series of a known process: recovers its coefficients.

`gen-jax train --config=experiments/linear_ar/ar.py --workdir=runs/linear_ar`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=1_000, batch_size=1_600, steps_per_call=20))
    c.eval_every = c.save_every = 500
    c.data = dict(source="ar")
    c.model_name, c.model = "linear_ar", dict(order=3, data_dim=64)
    c.optim = dict(net=dict(lr=0.05, schedule="cosine"))  # all training series in each step
    c.eval_batch_size = 200
    c.evals = dict(
        mean=dict(type="mean"),
        likelihood=dict(type="log_likelihood", when="end"),
        series=dict(type="series", when="end"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 16
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data.examples = 200
    return c


EXPECT = [
    dict(
        minutes=0.3,
        metrics=[
            dict(
                metric="test/loss",
                value=0.2132,
                tolerance=0.0005,
                seeds=3,
                unit="nats a value",
                published=0.215,
                source="entropy",
            )
        ],
        note="The standard error of the entropy on the test split is 0.006.",
    )
]
