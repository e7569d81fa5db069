"""A small Transformer on a list of names, or of any other short records, one a line; its nats a character are exact.

`gen-jax train --config=experiments/transformer/lines.py --workdir=runs/lines`, or `:path=names.txt` for your own list;
else the names of the functions and classes in Python's standard library
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, path="")  # path: your own records, one a line


def get_config(arg):
    c = ConfigDict(dict(total_steps=1_500, batch_size=256, steps_per_call=10))
    c.log_every, c.eval_every, c.save_every = 50, 100, 100
    # bytes: any list fits, and the end token is always 256
    c.data = dict(source="names", path=arg.path, context=64)
    c.model_name = "transformer"
    c.model = dict(vocab=257, end=256, context=64, layers=4, heads=4, width=64, bias=False, dropout=0.1)
    rate = dict(lr=2e-3, schedule="cosine", end=0.1, warmup=100)
    c.optim = dict(net=dict(name="adamw", b2=0.99, weight_decay=0.1, clip=1.0) | rate)
    c.eval_batch_size = 256
    c.best = dict(metric="val/loss", patience=5)
    c.evals = dict(
        validation=dict(type="mean", split="validation"),
        test=dict(type="mean"),
        text=dict(type="text", split="validation", n=20, sampling=dict(length=64), alarm_n=0, when="end"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call = 8, 16, 2
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data.validation, c.data.test = 0.01, 0.01
    c.model.layers, c.model.heads, c.model.width, c.optim.net.warmup, c.evals.text.sampling.length = 2, 2, 16, 2, 8
    return c


EXPECT = [
    dict(
        arg="path=names.txt",
        metrics=[
            dict(metric="test/nats_per_character", value=2.148, tolerance=0.02, published=1.879, source="entropy"),
            dict(metric="test/nats_per_record", value=12.75, tolerance=0.15),
        ],
        note="32,033 names that tests/name_lists.py makes.",
    )
]
