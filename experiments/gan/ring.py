"""Wasserstein GAN with gradient penalty on a ring of 8 Gaussians (radius 2, sigma 0.02), 5 critic updates a step.

`gen-jax train --config=experiments/gan/ring.py --workdir=runs/gan_ring`, or `:loss=hinge`, or another loss, without
penalty
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, loss=("wasserstein", "non_saturating", "minimax", "hinge", "least_squares", "relativistic"))


def get_config(arg):
    n_critic, critic_batch = 5, 256
    c = ConfigDict(dict(total_steps=12_000, batch_size=n_critic * critic_batch))
    c.steps_per_call, c.log_every, c.eval_every, c.save_every = 20, 200, 2_000, 4_000
    c.data = dict(source="gaussians", examples=100_000)
    c.model_name = "gan"
    c.model = dict(data_dim=2, loss=arg.loss, n_critic=n_critic)
    if arg.loss == "wasserstein":
        c.model.penalties = dict(gradient=1.0)
    adam = dict(b1=0.0, b2=0.9, schedule="cosine")
    c.optim = dict(gen=dict(adam, ema=0.995), disc=adam)
    c.eval_batch_size = 1_000
    c.evals = dict(
        modes=dict(type="modes", split="validation"),
        critic=dict(type="mean"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 40, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data.examples, c.model.widths = 1_000, (16,)
    c.evals.modes.n = 100
    return c


EXPECT = [
    dict(
        minutes=2.5,
        metrics=[
            dict(metric="val/modes", value=8, tolerance=0, unit="of 8"),
            dict(metric="val/near_share", value=0.943, tolerance=0.01, seeds=3, published=0.989, source="true samples"),
        ],
    )
]
