"""GPTs of three sizes on random windows of synthetic tokens, to be timed: GPT-2's layout without biases.

`gen-jax bench --config=experiments/transformer/bench.py:small --seconds=5`, or `:medium`, or `:gpt2` (124M, for a GPU);
with `--sample=64 --n=16` drawing instead of training.
On 2 cores the README has times beside a plain PyTorch 2.13 program doing the same work. `launch/gpu.sh` is for a GPU.
"""

from ml_collections import ConfigDict

SIZES = {
    "small": dict(layers=4, heads=4, width=128, context=64),
    "medium": dict(layers=6, heads=6, width=384, context=256),
    "gpt2": dict(layers=12, heads=12, width=768, context=1024, vocab=50_304, dtype="bfloat16", scan_layers=True),
    "smoke": dict(layers=2, heads=2, width=16, context=16),
}
BATCH = {"small": 12, "medium": 16, "gpt2": 12, "smoke": 16}
STEPS = {"small": 10, "medium": 1, "gpt2": 10, "smoke": 2}  # in one dispatch


def get_config(arg="small"):
    """`arg`: small, medium, gpt2 or smoke."""
    arg = arg or "small"
    if arg not in SIZES:
        raise ValueError(f"expected smoke, small, medium or gpt2 behind the colon, got {arg!r}")
    c = ConfigDict(dict(seed=0, total_steps=1_000, batch_size=BATCH[arg], steps_per_call=STEPS[arg]))
    c.log_every, c.eval_every, c.save_every = 100, 1_000, 0
    c.data = dict(source="markov", states=65, length=1_000_000, order="windows", context=SIZES[arg]["context"])
    c.model_name, c.model = "transformer", dict(vocab=65, bias=False) | SIZES[arg]
    c.optim = dict(net=dict(name="adamw", lr=1e-3, b2=0.99, weight_decay=0.1, clip=1.0))
    c.mesh, c.sharding = dict(data=-1, model=1), ((".*", "replicate"),)
    c.evals = dict()
    if arg == "smoke":
        c.total_steps, c.log_every, c.eval_every, c.data.length = 8, 4, 8, 10_000
    return c
