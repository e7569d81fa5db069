"""SNGAN on CIFAR-10 (Miyato et al. 2018): residual networks, spectral norm, hinge loss, 5 critic updates a step.

`gen-jax train --config=experiments/gan/cifar10_sngan.py --workdir=runs/gan_cifar10_sngan`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    n_critic, critic_batch = 5, 64
    c = ConfigDict(dict(total_steps=100_000, batch_size=n_critic * critic_batch))
    c.eval_every = c.save_every = 10_000
    c.data = dict(source="tfds", name="cifar10")
    c.model_name = "gan"
    c.model = dict(image=(32, 32, 3), net="resnet", widths=(256, 256, 256), latent=128, loss="hinge", n_critic=n_critic)
    c.model.critic_widths, c.model.critic_norm = (128, 128, 128, 128), "spectral"
    adam = dict(lr=2e-4, b1=0.0, b2=0.9, schedule="linear")
    c.optim = dict(gen=dict(adam, ema=0.9999), disc=adam)
    c.eval_batch_size = 128
    c.evals = dict(
        critic=dict(type="mean"),
        pictures=dict(type="pictures", kinds=("samples",), n=100),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 16, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.data, c.model.image = dict(source="digits"), (8, 8, 1)
    c.model.widths, c.model.critic_widths, c.model.latent = (4,), (4,), 4
    c.model.n_critic, c.evals.pictures.n = 2, 10
    return c


EXPECT = [dict(machine="a GPU", note="Not run to its end: 100,000 steps.")]
