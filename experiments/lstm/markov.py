"""An LSTM, or a Transformer, on a Markov chain of 8 states: reaches its entropy.

`gen-jax train --config=experiments/lstm/markov.py --workdir=runs/lstm_markov`, or `:model=transformer`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, model=("lstm", "transformer"))


def get_config(arg):
    lstm = arg.model == "lstm"
    c = ConfigDict(dict(total_steps=1_000, batch_size=32, steps_per_call=20))
    c.eval_every = c.save_every = 500
    c.data = dict(source="markov", context=32)
    c.model_name = arg.model
    c.model = dict(vocab=8, embed=16, width=32) if lstm else dict(vocab=8, context=32, layers=2, heads=2, width=32)
    rate = dict(lr=1e-2) if lstm else dict(lr=3e-3, warmup=50)
    c.optim = dict(net=dict(schedule="cosine", clip=1.0) | rate)
    c.eval_batch_size = 64
    c.evals = dict(carried=dict(type="mean", carried=True)) if lstm else dict(mean=dict(type="mean"))
    return smoke(c, lstm) if arg.smoke else c


def smoke(c, lstm):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call = 8, 16, 2
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data.length = 20_000
    if not lstm:
        c.optim.net.warmup = 2
    return c


EXPECT = [
    dict(
        minutes=0.4,
        metrics=[
            dict(
                metric="test/loss",
                value=1.5018,
                tolerance=0.0005,
                seeds=3,
                unit="nats a token",
                published=1.4999,
                source="entropy",
            )
        ],
    ),
    dict(
        arg="model=transformer",
        minutes=1.2,
        metrics=[
            dict(
                metric="test/loss",
                value=1.502,
                tolerance=0.001,
                seeds=3,
                unit="nats a token",
                published=1.4999,
                source="entropy",
            )
        ],
    ),
]
