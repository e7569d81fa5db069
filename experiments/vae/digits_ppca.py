"""A linear VAE on the embedded digits, whose optimum is probabilistic PCA (Tipping & Bishop 1999; Lucas et al. 2019).

`gen-jax train --config=experiments/vae/digits_ppca.py --workdir=runs/vae_digits_ppca`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=20_000, batch_size=256, steps_per_call=20))
    c.log_every, c.eval_every, c.save_every = 200, 5_000, 5_000
    c.data = dict(source="digits")
    c.model_name = "vae"
    c.model = dict(image=(8, 8, 1), net="linear", widths=(), latent=10, likelihood="gaussian")
    c.optim = dict(net=dict(lr=5e-3, schedule="cosine", ema=0.999))
    c.eval_batch_size = 256
    c.evals = dict(
        train=dict(type="mean", split="train"),
        elbo=dict(type="mean"),
        log_likelihood=dict(type="log_likelihood", split="train", num_samples=200, when="end"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.model.latent, c.evals.log_likelihood.num_samples = 3, 10
    return c


EXPECT = [
    dict(
        minutes=0.3,
        metrics=[
            dict(
                metric="train_eval/log_likelihood",
                value=17.424,
                tolerance=0.02,
                seeds=3,
                unit="nats",
                published=17.43,
                source="closed form of PPCA",
            )
        ],
    )
]
