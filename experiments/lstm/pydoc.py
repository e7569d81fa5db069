"""A byte-level LSTM on Python's own documentation (2.2 MB); its carry passes from window to window.

`gen-jax train --config=experiments/lstm/pydoc.py --workdir=runs/lstm_pydoc`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=4_000, batch_size=32, steps_per_call=10))
    c.eval_every = c.save_every = 1_000
    c.data = dict(source="pydoc", order="streams", context=64)
    c.model_name = "lstm"
    c.model = dict(width=384, start=10)  # 10 is the end of a line
    c.optim = dict(net=dict(lr=4e-3, schedule="cosine", warmup=100, clip=1.0))
    c.eval_batch_size = 64
    c.evals = dict(
        carried=dict(type="mean", carried=True),
        cold=dict(type="mean", prefix="cold_"),
        ngram=dict(type="ngram"),
        text=dict(type="text", n=2, sampling=dict(prompts=("class ",), length=400, temperature=0.7)),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data.context, c.data.test = 32, 0.01
    c.model.embed, c.model.width, c.optim.net.warmup, c.evals.text.sampling.length = 8, 16, 2, 20
    return c


EXPECT = [
    dict(
        minutes=10,
        metrics=[
            dict(
                metric="test/bits_per_byte", value=1.928, tolerance=0.02, published=2.235, source="interpolated 5-gram"
            ),
            dict(metric="test/cold_bits_per_byte", value=2.214, tolerance=0.02),
        ],
        note="cold: without the carry of the window before.",
    )
]
