"""DCGAN on MNIST: non-saturating loss, batch norm in both networks, a dense layer in each.

`gen-jax train --config=experiments/gan/mnist_dcgan.py --workdir=runs/gan_mnist_dcgan`
At most 6.5 min on 2 cores: FID 1.05, 1.00, 1.05 (seeds 0, 1, 2; floor 0.23, `vae/mnist.py` 19.80), each class 7.9 to
11.8 % of 10,000 samples, against 10,000 test images in the features of a classifier of 99.41 %.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    """`arg`: empty or `smoke`."""
    if arg not in ("", "smoke"):
        raise ValueError(f"expected smoke behind the colon, got {arg!r}")
    c = ConfigDict(dict(seed=0, total_steps=8_000, batch_size=64, steps_per_call=1, parallel="jit"))
    c.log_every, c.eval_every, c.save_every = 100, 2_000, 2_000
    c.data = dict(source="tfds", name="mnist", data_dir="", order="permuted")
    c.model_name = "gan"
    c.model = dict(image=(28, 28, 1), net="dcgan", widths=(64, 32), hidden=256, latent=64, loss="non_saturating")
    c.model.critic_norm = "batch"
    adam = dict(name="adam", lr=1e-3, b1=0.5, b2=0.999, schedule="cosine")
    c.optim = dict(gen=dict(adam, ema=0.995), disc=dict(adam, lr=3e-4))
    c.mesh, c.sharding = dict(data=-1, model=1), ((".*", "replicate"),)
    c.eval_batch_size = 128
    c.evals = dict(
        critic=dict(type="mean", split="test"),
        pictures=dict(type="pictures", split="test", kinds=("samples",), n=100),
        generation=dict(type="generation", split="test"),
    )
    return smoke(c) if arg == "smoke" else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 16, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.data = dict(source="digits", size=28)
    c.model.widths, c.model.hidden, c.model.latent, c.evals.pictures.n = (8, 4), 8, 4, 10
    c.evals.generation.update(n=64, kid_subsets=2, features=dict(recipe=dict(widths=(4,), features=8, epochs=1)))
    return c
