"""The second stage on the embedded digits: a class-conditional Transformer over the 4x4 codes of a trained `digits.py`.

`gen-jax train --config=experiments/vqvae/digits_prior.py:run=runs/vqvae_digits --workdir=runs/vqvae_digits_prior`
At most 4 min on 2 cores: test 2.897 nats a code (uniform: 4.16); the samples are in the run's `samples/`.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    """`arg`: empty, `smoke`, or `run=DIR` of the first stage."""
    if arg not in ("", "smoke") and not arg.startswith("run="):
        raise ValueError(f"expected smoke or run=DIR behind the colon, got {arg!r}")
    run = arg[4:] if arg.startswith("run=") else "runs/vqvae_digits"
    c = ConfigDict(dict(seed=0, total_steps=5_000, batch_size=64, steps_per_call=10, parallel="jit"))
    c.log_every, c.eval_every, c.save_every = 100, 1_000, 1_000
    c.data = dict(source="digits", order="permuted")
    c.model_name = "code_prior"
    first = dict(image=(8, 8, 1), widths=(64,), codes=64, code_width=16, commitment=0.25, variance=0.1)
    c.model = dict(first_stage=first, width=96, layers=3, heads=4, dropout=0.2, num_classes=10)
    c.init_from = dict(workdir=run, step="latest", nets=dict(first_stage="net"), allow=())
    c.optim = dict(
        net=dict(name="adamw", lr=1e-3, schedule="cosine", warmup=100, weight_decay=0.01, clip=1.0, ema=0.995)
    )
    c.mesh, c.sharding = dict(data=-1, model=1), ((".*", "replicate"),)
    c.eval_batch_size = 128
    c.evals = dict(
        codes=dict(type="mean", split="test"),
        pictures=dict(type="pictures", split="test", kinds=("samples",), n=100),
    )
    return smoke(c) if arg == "smoke" else c


def smoke(c):
    """Seconds on any machine; the first stage stays untrained."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 4, 16, 2, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.init_from.workdir, c.evals.pictures.n, c.optim.net.warmup = "", 4, 2
    c.model.first_stage.update(widths=(4,), codes=16, code_width=4)
    c.model.width, c.model.layers, c.model.heads = 16, 1, 2
    return c
