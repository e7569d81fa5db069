"""VAE-GAN on MNIST: reconstructions by the features of a critic.

`gen-jax train --config=experiments/vaegan/mnist.py --workdir=runs/vaegan_mnist`
Not run to its end: neither minutes on 2 cores nor the PSNR after 10,000 steps are known.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    """`arg`: empty or `smoke`."""
    if arg not in ("", "smoke"):
        raise ValueError(f"expected smoke behind the colon, got {arg!r}")
    c = ConfigDict(dict(seed=0, total_steps=10_000, batch_size=64, steps_per_call=1, parallel="jit"))
    c.log_every, c.eval_every, c.save_every = 200, 2_000, 2_000
    c.data = dict(source="tfds", name="mnist", data_dir="", order="permuted")
    c.model_name = "vaegan"
    c.model = dict(image=(28, 28, 1), widths=(32, 64), critic_widths=(32, 64), latent=32)
    c.model.gamma, c.model.loss = 0.01, "non_saturating"
    adam = dict(name="adam", lr=5e-4, b1=0.5, schedule="cosine")
    c.optim = dict(enc=dict(adam, ema=0.999), gen=dict(adam, ema=0.999), disc=dict(adam))
    c.mesh, c.sharding = dict(data=-1, model=1), ((".*", "replicate"),)
    c.eval_batch_size = 128
    c.evals = dict(
        losses=dict(type="mean", split="test"),
        psnr=dict(type="psnr", split="test"),
        pictures=dict(type="pictures", split="test", kinds=("reconstruction", "samples", "interpolation"), n=64),
    )
    return smoke(c) if arg == "smoke" else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 16, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.data = dict(source="digits", size=28)
    c.model.widths, c.model.critic_widths, c.model.latent = (4, 8), (4, 8), 4
    return c
