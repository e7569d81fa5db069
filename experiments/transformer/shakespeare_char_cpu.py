"""nanoGPT's CPU recipe: a small character Transformer on Tiny Shakespeare (`gen-jax data prepare tiny_shakespeare`).

`gen-jax train --config=experiments/transformer/shakespeare_char_cpu.py --workdir=runs/shakespeare_char_cpu`
The sizes and the 2,000 steps are nanoGPT's own; twice its learning rate makes the difference (at its 1e-3: 1.896 and
1.909 nats a character, seeds 0 and 1), averaged weights little.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=2_000, batch_size=12, steps_per_call=20))
    c.eval_every = c.save_every = 2_000
    c.data = dict(source="tfds", name="tiny_shakespeare", order="windows", context=64, tokenizer="char")
    c.model_name = "transformer"
    c.model = dict(vocab=65, context=64, layers=4, heads=4, width=128, bias=False)
    rate = dict(lr=2e-3, schedule="cosine", end=0.1, warmup=100)
    c.optim = dict(net=dict(name="adamw", b2=0.99, weight_decay=0.1, clip=1.0, ema=0.99) | rate)
    c.eval_batch_size = 64
    c.evals = dict(
        loss=dict(type="mean", split="validation+test"),
        attention=dict(type="attention", split="validation", when="end"),
        text=dict(
            type="text",
            split="validation",
            n=2,
            sampling=dict(prompts=("ROMEO:",), length=400, temperature=0.8),
            alarm_n=0,
        ),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine, on Python's documentation."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data = dict(source="pydoc", order="windows", context=16, tokenizer="byte", test=0.01, validation=0.01)
    c.model = dict(vocab=256, context=16, layers=2, heads=2, width=16, bias=False, dropout=0.0)
    c.optim.net.warmup, c.evals.text.sampling.length = 2, 20
    return c


EXPECT = [
    dict(
        minutes=1,
        metrics=[
            dict(
                metric="validation+test/loss",
                value=1.795,
                tolerance=0.01,
                seeds=3,
                unit="nats a character",
                published=1.898,
                source="nanoGPT, scored so",
            )
        ],
        note="The last 10 % of the text in consecutive blocks.",
    )
]
