"""Wasserstein GAN with gradient penalty on a 5x5 grid of Gaussians (2 apart, sigma 0.05), 5 critic updates a step.

`gen-jax train --config=experiments/gan/grid.py --workdir=runs/gan_grid`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    n_critic, critic_batch = 5, 256
    c = ConfigDict(dict(total_steps=24_000, batch_size=n_critic * critic_batch))
    c.steps_per_call, c.log_every, c.eval_every, c.save_every = 20, 200, 4_000, 8_000
    c.data = dict(source="gaussians", layout="grid", modes=25, radius=4.0, sigma=0.05, examples=100_000)
    c.model_name = "gan"
    c.model = dict(data_dim=2, widths=(256, 256, 256), loss="wasserstein", n_critic=n_critic)
    c.model.critic_widths, c.model.penalties = (128, 128, 128), dict(gradient=1.0)
    adam = dict(b1=0.0, b2=0.9, schedule="cosine")
    c.optim = dict(gen=dict(adam, ema=0.995), disc=adam)
    c.eval_batch_size = 1_000
    c.evals = dict(modes=dict(type="modes", split="validation"), critic=dict(type="mean"))
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 40, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data.examples, c.model.widths, c.model.critic_widths, c.evals.modes.n = 1_000, (16,), (16,), 100
    return c


EXPECT = [
    dict(
        minutes=5,
        metrics=[
            dict(metric="val/modes", value=25, tolerance=0, unit="of 25"),
            dict(metric="val/near_share", value=0.936, tolerance=0.01, seeds=3, published=0.989, source="true samples"),
        ],
    )
]
