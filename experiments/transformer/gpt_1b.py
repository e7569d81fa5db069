"""A GPT of 1.1 B parameters for a TPU v5e:16x16: the widths of Llama 3.2 1B with half its heads, each twice as wide.

`gen-jax train --config=experiments/transformer/gpt_1b.py --workdir=runs/gpt_1b`
It reads Python's documentation as bytes, so that it starts anywhere. For a text of your own: `gen-jax data tokenize
--path=TEXTS --out=tokens --tokenizer=bpe --vocab_size=50304`, then `--config=FILE:tokens=tokens`.
It has not been run. `gen-jax plan --topology=v5e:16x16` takes 37 s on 2 cores: 3.2 GB, 19 % of a chip; a step of about
0.33 s, collectives that nothing hides 0.17 of the rest; an MFU of about 47 %.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    """`arg`: empty, `smoke`, or `tokens=DIR`, what `gen-jax data tokenize` wrote."""
    if arg not in ("", "smoke") and not arg.startswith("tokens="):
        raise ValueError(f"expected smoke or tokens=DIR behind the colon, got {arg!r}")
    c = ConfigDict(dict(seed=0, total_steps=50_000, batch_size=512, steps_per_call=1, parallel="jit"))
    c.log_every, c.eval_every, c.save_every = 100, 1_000, 1_000
    text = dict(source="token_file", path=arg[7:]) if arg.startswith("tokens=") else dict(source="pydoc")
    c.data = dict(order="windows", context=2048) | text
    c.model_name = "transformer"
    c.model = dict(vocab=50_304, context=2048, layers=16, heads=16, kv_heads=8, width=2048, mlp_width=8192)
    c.model.update(norm="rms", position="rotary", mlp="swiglu", bias=False, tied=True)
    c.model.update(scan_layers=True, remat="full", dtype="bfloat16")
    rate = dict(lr=3e-4, schedule="cosine", end=0.1, warmup=2_000)
    c.optim = dict(net=dict(name="adamw", b2=0.95, weight_decay=0.1, clip=1.0) | rate)
    c.mesh, c.sharding = dict(data=-1, fsdp=16, model=1), ((".*", "fsdp"),)
    c.eval_batch_size = 512
    c.evals = dict(validation=dict(type="mean", split="validation"))
    return smoke(c) if arg == "smoke" else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 4, 8, 8, 2
    c.data.update(context=16, test=0.01, validation=0.01)
    c.model.update(vocab=256, context=16, layers=2, heads=2, kv_heads=1, width=16, mlp_width=32)
    c.mesh = dict(data=-1)
    return c
