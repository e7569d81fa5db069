"""The model of the IWAE paper (Burda et al. 2016) on dynamically binarised MNIST: 200-200 tanh, latent 50.

`gen-jax train --config=experiments/vae/mnist_iwae.py --workdir=runs/vae_mnist_iwae` (`:k=5` and `:k=50` for IWAE)
At most 40 min on 2 cores: test log-likelihood -86.56 and -86.73 nats (seeds 1, 2; 5,000 samples, test set binarised
once).
Published, after 3,280 epochs: -86.76 (k = 1).
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    """`arg`: empty, `smoke`, or `k=NUMBER`."""
    if arg not in ("", "smoke") and not (arg.startswith("k=") and arg[2:].isdigit()):
        raise ValueError(f"expected smoke or k=NUMBER behind the colon, got {arg!r}")
    c = ConfigDict(dict(seed=0, total_steps=720_000, batch_size=100, steps_per_call=20, parallel="jit"))
    c.log_every, c.eval_every, c.save_every = 1_000, 72_000, 72_000
    c.data = dict(source="tfds", name="mnist", data_dir="", validation=0.0, order="permuted")
    c.model_name = "vae"
    c.model = dict(image=(28, 28, 1), net="mlp", widths=(200, 200), activation="tanh", latent=50, k=1)
    c.optim = dict(net=dict(name="adam", lr=1e-3, schedule="cosine", warmup=0, ema=0.999))
    c.mesh, c.sharding = dict(data=-1, model=1), ((".*", "replicate"),)
    c.eval_batch_size = 500
    c.evals = dict(
        elbo=dict(type="mean", split="test"),
        log_likelihood=dict(type="log_likelihood", split="test", num_samples=5_000, when="end"),
        active_units=dict(type="active_units", split="test", when="end"),
        pictures=dict(type="pictures", split="test", kinds=("reconstruction", "samples"), n=64, when="end"),
    )
    if arg.startswith("k="):
        c.model.k = int(arg[2:])
    return smoke(c) if arg == "smoke" else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data = dict(source="digits", size=28)
    c.model.widths, c.model.latent, c.evals.log_likelihood.num_samples = (16, 16), 4, 20
    return c
