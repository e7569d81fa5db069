"""A masked character model on Tiny Shakespeare, and a GPT of its size and steps beside it.

`gen-jax train --config=experiments/masked_diffusion/shakespeare_char.py --workdir=runs/masked_shakespeare`, or
`:model=transformer`; `gen-jax data prepare tiny_shakespeare` first. `gen-jax compare` of the two runs shows the gap:
both losses are of the same characters, each window after its first.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, model=("masked_text", "transformer"))


def get_config(arg):
    c = ConfigDict(dict(total_steps=20_000, batch_size=32, steps_per_call=20))
    c.eval_every = c.save_every = 5_000
    c.data = dict(source="tfds", name="tiny_shakespeare", context=64, tokenizer="char", order="windows")
    c.model_name = arg.model
    c.model = dict(vocab=65, context=64, layers=4, heads=4, width=128, dropout=0.1)
    rate = dict(lr=2e-3, schedule="cosine", end=0.1, warmup=100)
    c.optim = dict(net=dict(name="adamw", b2=0.99, weight_decay=0.1, clip=1.0, ema=0.99) | rate)
    c.eval_batch_size = 64
    sampling = dict(prompts=("ROMEO:",), length=58) | (dict(steps=200) if arg.model == "masked_text" else {})
    c.evals = dict(
        loss=dict(type="mean", split="validation+test"),
        text=dict(type="text", split="validation", n=2, sampling=sampling, alarm_n=0),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine, on Python's documentation."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data = dict(source="pydoc", order="windows", context=16, tokenizer="byte", test=0.01, validation=0.01)
    c.model.update(vocab=256, context=16, layers=2, heads=2, width=16)
    c.optim.net.warmup, c.evals.text.sampling.length = 2, 10
    if "steps" in c.evals.text.sampling:
        c.evals.text.sampling.steps = 3
    return c


EXPECT = [dict(note="Not run to its end.")]
