"""A byte-level LSTM on Python's own documentation (2.2 MB), its carry going on from window to window.

`gen-jax train --config=experiments/lstm/pydoc.py --workdir=runs/lstm_pydoc`
At most 10 min on 2 cores: test 1.928 bits a byte with the carry, 2.214 without; an interpolated 5-gram has 2.235.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    """`arg`: empty or `smoke`."""
    if arg not in ("", "smoke"):
        raise ValueError(f"expected smoke behind the colon, got {arg!r}")
    c = ConfigDict(dict(seed=0, total_steps=4_000, batch_size=32, steps_per_call=10, parallel="jit"))
    c.log_every, c.eval_every, c.save_every = 100, 1_000, 1_000
    c.data = dict(source="pydoc", order="streams", context=64, tokenizer="byte")
    c.model_name = "lstm"
    c.model = dict(vocab=256, embed=64, width=384, layers=1, dropout=0.0, start=10)  # 10 is the end of a line
    c.optim = dict(net=dict(name="adam", lr=4e-3, schedule="cosine", warmup=100, clip=1.0))
    c.mesh, c.sharding = dict(data=-1, model=1), ((".*", "replicate"),)
    c.eval_batch_size = 64
    c.evals = dict(
        carried=dict(type="mean", split="test", carried=True),
        cold=dict(type="mean", split="test", prefix="cold_"),
        ngram=dict(type="ngram", split="test", order=5, when="end"),
        text=dict(type="text", split="test", prompt="class ", n=2, length=400, temperature=0.7),
    )
    return smoke(c) if arg == "smoke" else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data.context, c.data.test = 32, 0.01
    c.model.embed, c.model.width, c.optim.net.warmup, c.evals.text.length = 8, 16, 2, 20
    return c
