"""VAE-GAN on the embedded 8x8 handwritten digits, or on MNIST: reconstructions by the features of a critic.

`gen-jax train --config=experiments/vaegan/images.py --workdir=runs/vaegan_digits`, or `:data=mnist`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, data=("digits", "mnist"))


def get_config(arg):
    mnist = arg.data == "mnist"
    c = ConfigDict(dict(total_steps=10_000 if mnist else 8_000, batch_size=64))
    c.log_every, c.eval_every, c.save_every = 200, 2_000, 2_000
    c.data = dict(source="tfds", name="mnist") if mnist else dict(source="digits")
    c.model_name = "vaegan"
    c.model = dict(image=(28, 28, 1), latent=32) if mnist else dict(image=(8, 8, 1), latent=16)
    c.model.loss = "non_saturating"
    adam = dict(lr=5e-4, b1=0.5, schedule="cosine")
    averaged = dict(adam, ema=0.999 if mnist else 0.995)
    c.optim = dict(enc=averaged, gen=averaged, disc=adam)
    c.eval_batch_size = 128
    c.evals = dict(
        losses=dict(type="mean"),
        psnr=dict(type="psnr"),
        pictures=dict(type="pictures", kinds=("reconstruction", "samples", "interpolation")),
    )
    return smoke(c, mnist) if arg.smoke else c


def smoke(c, mnist):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 16, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.model.widths = c.model.critic_widths = (4, 8) if mnist else (8,)
    c.model.latent = 4
    if mnist:
        c.data = dict(source="digits", size=28)
    return c


EXPECT = [
    dict(
        minutes=11,
        metrics=[
            dict(metric="test/psnr", value=18.93, tolerance=0.5, unit="dB"),
            dict(metric="test/kl", value=11.87, tolerance=1.0, unit="nats"),
        ],
    ),
    dict(arg="data=mnist", note="Not run to its end."),
]
