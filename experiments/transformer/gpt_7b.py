"""A GPT of 6.9 B parameters for a TPU v5p:8x8x16, the shape of Llama 7B (Touvron et al. 2023).

`gen-jax train --config=experiments/transformer/gpt_7b.py --workdir=runs/gpt_7b`
It reads Python's documentation as bytes, so that it starts anywhere. For a text of your own: `gen-jax data tokenize
--path=TEXTS --out=tokens --tokenizer=bpe --vocab_size=50304`, then `--config=FILE:tokens=tokens`.
It has not been run. `gen-jax plan --topology=v5p:8x8x16` takes 45 s on 2 cores: 9.7 GB, 9 % of a chip; a step of
about 0.79 s, collectives that nothing hides 0.20 of the rest; an MFU of about 49 %.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    """`arg`: empty, `smoke`, or `tokens=DIR`, what `gen-jax data tokenize` wrote."""
    if arg not in ("", "smoke") and not arg.startswith("tokens="):
        raise ValueError(f"expected smoke or tokens=DIR behind the colon, got {arg!r}")
    c = ConfigDict(dict(seed=0, total_steps=250_000, batch_size=2048, steps_per_call=1, parallel="jit"))
    c.log_every, c.eval_every, c.save_every = 100, 1_000, 1_000
    text = dict(source="token_file", path=arg[7:]) if arg.startswith("tokens=") else dict(source="pydoc")
    c.data = dict(order="windows", context=2048) | text
    c.model_name = "transformer"
    c.model = dict(vocab=50_304, context=2048, layers=32, heads=32, width=4096, mlp_width=11_008)
    c.model.update(norm="rms", position="rotary", mlp="swiglu", bias=False, tied=False)
    c.model.update(scan_layers=True, remat="full", dtype="bfloat16")
    rate = dict(lr=3e-4, schedule="cosine", end=0.1, warmup=2_000)
    c.optim = dict(net=dict(name="adamw", b2=0.95, weight_decay=0.1, clip=1.0) | rate)
    c.mesh, c.sharding = dict(data=-1, fsdp=64, model=1), ((".*", "fsdp"),)
    c.eval_batch_size = 2048
    c.evals = dict(validation=dict(type="mean", split="validation"))
    return smoke(c) if arg == "smoke" else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 4, 8, 8, 2
    c.data.update(context=16, test=0.01, validation=0.01)
    c.model.update(vocab=256, context=16, layers=2, heads=2, width=16, mlp_width=32)
    c.mesh = dict(data=-1)
    return c
