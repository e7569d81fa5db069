"""GPTs for TPUs: GPT-2 of 124 M parameters, 1.1 B (Llama 3.2 1B with half its heads), and 6.9 B (Llama 7B).

`gen-jax train --config=experiments/transformer/gpt.py --workdir=runs/gpt2_124m`, or `:size=1b`, or `:size=7b`
The first is nanoGPT's recipe for OpenWebText. The heads of 1b are twice as wide as Llama's.
It reads Python's documentation as bytes, so that it starts anywhere. For a text of your own: `gen-jax data tokenize
--path=TEXTS --out=tokens --tokenizer=bpe --vocab_size=50304`, then `--config=FILE:size=1b,tokens=tokens`.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, size=("124m", "1b", "7b"), tokens="")  # tokens: what `gen-jax data tokenize` wrote
LLAMA = dict(context=2048, norm="rms", position="rotary", mlp="swiglu")
SIZES = {
    "124m": dict(context=1024, layers=12, heads=12, width=768, loss_parts=8),
    "1b": LLAMA | dict(layers=16, heads=16, kv_heads=8, width=2048, mlp_width=8192),
    "7b": LLAMA | dict(layers=32, heads=32, width=4096, mlp_width=11_008, tied=False),
}
STEPS = {"124m": 600_000, "1b": 50_000, "7b": 250_000}
BATCH = {"124m": 480, "1b": 512, "7b": 2048}


def get_config(arg):
    c = ConfigDict(dict(total_steps=STEPS[arg.size], batch_size=BATCH[arg.size], eval_batch_size=BATCH[arg.size]))
    c.eval_every = c.save_every = 1_000
    c.model_name = "transformer"
    c.model = dict(vocab=50_304, bias=False, scan_layers=True, remat="full", dtype="bfloat16") | SIZES[arg.size]
    c.data = dict(source="token_file", path=arg.tokens) if arg.tokens else dict(source="pydoc")
    c.data.context = c.model.context
    rate = dict(lr=6e-4 if arg.size == "124m" else 3e-4, schedule="cosine", end=0.1, warmup=2_000)
    c.optim = dict(net=dict(name="adamw", b2=0.95, weight_decay=0.1, clip=1.0) | rate)
    if arg.size != "124m":
        c.mesh, c.sharding = dict(fsdp=16 if arg.size == "1b" else 64), ((".*", "fsdp"),)
    c.evals = dict(validation=dict(type="mean", split="validation"))
    return smoke(c, arg.size) if arg.smoke else c


def smoke(c, size):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 4, 8, 8, 2
    c.data.update(context=16, test=0.01, validation=0.01)
    c.model.update(vocab=256, context=16, layers=2, heads=2, width=16)
    if size != "124m":
        c.model.mlp_width, c.mesh = 32, dict()
    if size == "1b":
        c.model.kv_heads = 1
    return c


EXPECT = [
    dict(machine="TPU v5e:4x4", note="Not run. Planned: 6.6 GB, 39 % of a chip; a step of 0.43 s; an MFU of 31 %."),
    dict(
        arg="size=1b",
        machine="TPU v5e:16x16",
        note="Not run. Planned: 3.2 GB, 19 % of a chip; a step of 0.33 s; an MFU of 47 %.",
    ),
    dict(
        arg="size=7b",
        machine="TPU v5p:8x8x16",
        note="Not run. Planned: 9.7 GB, 9 % of a chip; a step of 0.79 s; an MFU of 49 %.",
    ),
]
