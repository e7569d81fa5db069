"""Stacked MNIST, three digits as channels, 1,000 modes: Wasserstein GAN with gradient penalty.

`gen-jax train --config=experiments/gan/stacked_mnist.py --workdir=runs/gan_stacked_mnist`
The same networks with the non-saturating loss, Adam of b1=0.5, 6,000 steps of batch 64: 921 modes with batch norm in
the critic, 26 without it and with R1 (0.5, every 4 updates).
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    n_critic, critic_batch = 2, 64
    c = ConfigDict(dict(total_steps=5_000, batch_size=n_critic * critic_batch))
    c.eval_every = c.save_every = 2_500
    c.data = dict(source="stacked", of=dict(source="tfds", name="mnist"))
    c.model_name = "gan"
    c.model = dict(image=(28, 28, 3), net="dcgan", widths=(64, 32), hidden=256, latent=64, loss="wasserstein")
    c.model.n_critic, c.model.penalties = n_critic, dict(gradient=10.0)
    adam = dict(b1=0.0, b2=0.9, schedule="cosine")
    c.optim = dict(gen=dict(adam, ema=0.995), disc=dict(adam, lr=5e-4))
    c.eval_batch_size = 128
    c.evals = dict(
        critic=dict(type="mean"),
        pictures=dict(type="pictures", kinds=("samples",), n=100),
        modes=dict(type="stacked_modes"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 24, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.data = dict(source="stacked", of=dict(source="digits", size=28))
    c.model.widths, c.model.hidden, c.model.latent, c.evals.pictures.n = (8, 4), 8, 4, 10
    c.evals.modes.update(n=64, recipe=dict(widths=(4,), features=8, epochs=1))
    return c


EXPECT = [
    dict(
        minutes=13,
        metrics=[
            dict(
                metric="test/stacked_modes", value=1000, tolerance=1, unit="of 1,000", published=1000, source="labels"
            ),
            dict(metric="test/stacked_kl", value=0.089, tolerance=0.02, unit="nats", published=0.032, source="labels"),
        ],
        note="26,000 samples, named by a classifier of one channel, 99.3 %.",
    )
]
