"""GPTs of three sizes on random windows of synthetic tokens, to be timed: GPT-2's layout without biases.

`gen-jax bench --config=experiments/transformer/bench.py --seconds=5`, or `:size=medium`, or `:size=gpt2` (124M, for a
GPU); with `--sample=64 --n=16` drawing instead of training.
On 2 cores the README has times beside a plain PyTorch 2.13 program doing the same work. `launch/gpu.sh` is for a GPU.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, size=("small", "medium", "gpt2"))
SIZES = {
    "small": dict(layers=4, heads=4, width=128, context=64),
    "medium": dict(layers=6, heads=6, width=384, context=256),
    "gpt2": dict(layers=12, heads=12, width=768, context=1024, vocab=50_304, dtype="bfloat16", scan_layers=True),
    "smoke": dict(layers=2, heads=2, width=16, context=16),
}
BATCH = {"small": 12, "medium": 16, "gpt2": 12, "smoke": 16}
STEPS = {"small": 10, "medium": 1, "gpt2": 10, "smoke": 2}  # in one dispatch


def get_config(arg):
    size = "smoke" if arg.smoke else arg.size
    c = ConfigDict(dict(total_steps=1_000, batch_size=BATCH[size], steps_per_call=STEPS[size]))
    c.eval_every = 1_000
    c.data = dict(source="markov", states=65, length=1_000_000, context=SIZES[size]["context"])
    c.model_name, c.model = "transformer", dict(vocab=65, bias=False) | SIZES[size]
    c.optim = dict(net=dict(name="adamw", b2=0.99, weight_decay=0.1, clip=1.0))
    if arg.smoke:
        c.total_steps, c.log_every, c.eval_every, c.data.length = 8, 4, 8, 10_000
    return c
