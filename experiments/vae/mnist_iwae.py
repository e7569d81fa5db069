"""The model of the IWAE paper (Burda et al. 2016) on dynamically binarised MNIST: 200-200 tanh, latent 50.

`gen-jax train --config=experiments/vae/mnist_iwae.py --workdir=runs/vae_mnist_iwae` (`:k=5` and `:k=50` for IWAE)
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, k=1)


def get_config(arg):
    c = ConfigDict(dict(total_steps=720_000, batch_size=100, steps_per_call=20))
    c.log_every, c.eval_every, c.save_every = 1_000, 72_000, 72_000
    c.data = dict(source="tfds", name="mnist", validation=0.0)
    c.model_name = "vae"
    c.model = dict(activation="tanh", k=arg.k)
    c.optim = dict(net=dict(schedule="cosine", ema=0.999))
    c.eval_batch_size = 500
    c.evals = dict(
        elbo=dict(type="mean"),
        log_likelihood=dict(type="log_likelihood", num_samples=5_000, when="end"),
        active_units=dict(type="active_units", when="end"),
        pictures=dict(type="pictures", kinds=("reconstruction", "samples"), when="end"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data = dict(source="digits", size=28)
    c.model.widths, c.model.latent, c.evals.log_likelihood.num_samples = (16, 16), 4, 20
    return c


EXPECT = [
    dict(
        minutes=40,
        metrics=[
            dict(
                metric="test/log_likelihood",
                value=-86.65,
                tolerance=0.3,
                seeds=2,
                unit="nats",
                published=-86.76,
                source="Burda et al. 2016, k = 1, 3,280 epochs",
            )
        ],
        note="Seeds 1 and 2; 5,000 samples; the test set is binarized once.",
    )
]
