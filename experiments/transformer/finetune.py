"""A byte-level Transformer of Shakespeare, fine-tuned to the prose in Python's documentation: whole, or by LoRA.

The base: `gen-jax train --config=experiments/transformer/shakespeare_char_cpu.py --workdir=runs/shakespeare_byte
--config.data.tokenizer=byte --config.model.vocab=256`. Then
`gen-jax train --config=experiments/transformer/finetune.py:run=runs/shakespeare_byte --workdir=runs/finetune`,
the same with `:run=runs/shakespeare_byte,lora`, and with `:scratch`. The gap of LoRA grows with the steps.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, run="runs/shakespeare_byte", lora=False, scratch=False)  # run: the base


def get_config(arg):
    c = ConfigDict(dict(total_steps=200, batch_size=12, steps_per_call=20))
    c.eval_every = c.save_every = 100
    c.data = dict(source="pydoc", part="prose", context=64)
    c.model_name = "transformer"
    c.model = dict(context=64, layers=4, heads=4, width=128, bias=False)
    c.init_from = dict(workdir="" if arg.scratch else arg.run)
    c.optim = dict(net=dict(name="adamw", schedule="cosine", end=0.1, warmup=20, b2=0.99, weight_decay=0.1, clip=1.0))
    if arg.lora:  # the updates start at 0 and want a higher rate
        c.optim.net.lora = dict(rank=5, alpha=10.0, targets=("blocks/.*/kernel", "token/embedding"))
        c.optim.net.update(lr=1e-2, weight_decay=0.0)
    c.best = dict(metric="val/loss", patience=3)
    c.eval_batch_size = 64
    c.evals = dict(
        validation=dict(type="mean", split="validation"),
        test=dict(type="mean"),
        text=dict(type="text", n=2, sampling=dict(prompts=("Return ",), length=400, temperature=0.8), when="end"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine: LoRA on an untrained base."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data.context, c.init_from.workdir = 16, ""
    c.model.update(context=16, layers=2, heads=2, width=16)
    c.optim.net.warmup, c.evals.text.sampling.length = 2, 20
    c.optim.net.lora = dict(rank=2, alpha=4.0, targets=("blocks/.*/kernel", "token/embedding"))
    return c


EXPECT = [
    dict(minutes=1, metrics=[dict(metric="test/loss", value=1.69, tolerance=0.01, seeds=3, unit="nats a byte")]),
    dict(
        arg="lora",
        minutes=1,
        metrics=[dict(metric="test/loss", value=1.762, tolerance=0.02, seeds=3, unit="nats a byte")],
        note="4.9 % of the parameters are trained. Rank and rate were chosen on validation.",
    ),
    dict(
        arg="scratch",
        minutes=1,
        metrics=[dict(metric="test/loss", value=2.534, tolerance=0.08, seeds=3, unit="nats a byte")],
    ),
]
