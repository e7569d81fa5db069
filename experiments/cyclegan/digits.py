"""CycleGAN on the embedded 8x8 digits in two worlds of colours, B's a known map of A's; no pair is ever shown.

`gen-jax train --config=experiments/cyclegan/digits.py --workdir=runs/cyclegan_digits`
At most 8 min on 2 cores, both busy: mean absolute error on test images 2.4 % of the range from A to B, 2.5 % back
(seed 0; an image as it is: 62 %, the best single picture for all: 15 %).
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    """`arg`: empty or `smoke`."""
    if arg not in ("", "smoke"):
        raise ValueError(f"expected smoke behind the colon, got {arg!r}")
    c = ConfigDict(dict(seed=0, total_steps=3_000, batch_size=16, steps_per_call=1, parallel="jit"))
    c.log_every, c.eval_every, c.save_every = 100, 1_000, 1_000
    c.data = dict(source="colours", of=dict(source="digits", size=8), order="permuted")
    c.model_name = "cyclegan"
    c.model = dict(image=(8, 8, 3), width=16, stages=0, blocks=2, kernel=3, critic_width=16, critic_stages=1)
    c.model.norm, c.model.buffer, c.model.loss = "none", 4, "least_squares"  # the colours of a whole image matter
    gen, disc = dict(name="adam", lr=1e-3, b1=0.5, schedule="linear"), dict(name="adam", lr=1e-3, b1=0.5)
    c.optim = dict(gen_ab=dict(gen, ema=0.99), gen_ba=dict(gen, ema=0.99), disc_a=disc, disc_b=disc)
    c.mesh, c.sharding = dict(data=-1, model=1), ((".*", "replicate"),)
    c.eval_batch_size = 128
    c.evals = dict(
        losses=dict(type="mean", split="test"),
        translation=dict(type="image_translation", split="test", n=8),
    )
    return smoke(c) if arg == "smoke" else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 8, 32
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.model.width, c.model.blocks, c.model.critic_width, c.model.buffer = 8, 1, 8, 2
    return c
