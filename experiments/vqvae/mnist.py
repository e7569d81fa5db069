"""VQ-VAE on MNIST: 7x7 codes from a book of 128.

`gen-jax train --config=experiments/vqvae/mnist.py --workdir=runs/vqvae_mnist`
At most 10 min on 2 cores: test mse 0.0035 a pixel in [0, 1], codebook perplexity 100.7 of 128. Then `mnist_prior.py`.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    """`arg`: empty or `smoke`."""
    if arg not in ("", "smoke"):
        raise ValueError(f"expected smoke behind the colon, got {arg!r}")
    c = ConfigDict(dict(seed=0, total_steps=4_000, batch_size=128, steps_per_call=2, parallel="jit"))
    c.log_every, c.eval_every, c.save_every = 100, 2_000, 2_000
    c.data = dict(source="tfds", name="mnist", data_dir="", order="permuted")
    c.model_name = "vqvae"
    c.model = dict(image=(28, 28, 1), widths=(32, 64), codes=128, code_width=32, commitment=0.25, variance=0.1)
    c.optim = dict(net=dict(name="adam", lr=1e-3, schedule="cosine", warmup=100))
    c.mesh, c.sharding = dict(data=-1, model=1), ((".*", "replicate"),)
    c.eval_batch_size = 500
    c.evals = dict(
        terms=dict(type="mean", split="test"),
        psnr=dict(type="psnr", split="test"),
        codebook=dict(type="codebook", split="test"),
        pictures=dict(type="pictures", split="test", kinds=("reconstruction",), n=32),
    )
    return smoke(c) if arg == "smoke" else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 16, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.data = dict(source="digits", size=28)
    c.model.widths, c.model.codes, c.model.code_width, c.optim.net.warmup = (4, 8), 16, 4, 2
    return c
