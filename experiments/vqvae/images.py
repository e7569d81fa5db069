"""VQ-VAE on the embedded 8x8 handwritten digits, 4x4 codes from a book of 64; or on MNIST, 7x7 codes of 128.

`gen-jax train --config=experiments/vqvae/images.py --workdir=runs/vqvae_digits`, or `:data=mnist`. Then `prior.py`.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, data=("digits", "mnist"))


def get_config(arg):
    mnist = arg.data == "mnist"
    c = ConfigDict(dict(total_steps=4_000, batch_size=128, steps_per_call=2))
    c.eval_every = c.save_every = 2_000
    c.data = dict(source="tfds", name="mnist") if mnist else dict(source="digits")
    c.model_name = "vqvae"
    c.model = dict(image=(8, 8, 1), widths=(64,), codes=64, code_width=16)
    if mnist:
        c.model = dict(image=(28, 28, 1), widths=(32, 64), codes=128, code_width=32)
    c.optim = dict(net=dict(schedule="cosine", warmup=100))
    c.eval_batch_size = 500 if mnist else 128
    c.evals = dict(
        terms=dict(type="mean"),
        psnr=dict(type="psnr"),
        codebook=dict(type="codebook"),
        pictures=dict(type="pictures", kinds=("reconstruction",), n=32),
    )
    return smoke(c, mnist) if arg.smoke else c


def smoke(c, mnist):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 16, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.model.widths, c.model.codes, c.model.code_width, c.optim.net.warmup = (4, 8) if mnist else (4,), 16, 4, 2
    if mnist:
        c.data = dict(source="digits", size=28)
    return c


EXPECT = [
    dict(
        minutes=2,
        metrics=[
            dict(metric="test/mse", value=0.0048, tolerance=0.0009, seeds=3, unit="of a pixel in [0, 1]"),
            dict(metric="test/codebook_perplexity", value=58.8, tolerance=3, seeds=3.0, unit="of 64"),
        ],
    ),
    dict(
        arg="data=mnist",
        minutes=10,
        metrics=[
            dict(metric="test/mse", value=0.0035, tolerance=0.0004, unit="of a pixel in [0, 1]"),
            dict(metric="test/codebook_perplexity", value=100.7, tolerance=8.0, unit="of 128"),
        ],
    ),
]
