"""Diffusion over the latents of a trained autoencoder of the embedded digits: `vqvae/images`, or `vae/digits`.

`gen-jax train --config=experiments/diffusion/latents.py --workdir=runs/diffusion_latents` after `vqvae/images` in
runs/vqvae_digits, or `:first=vae` after `vae/digits` in runs/vae_digits. `run=DIR` names another run.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, first=("vqvae", "vae"), run="")  # first: the model of the first stage; run: its run


def get_config(arg):
    c = ConfigDict(dict(total_steps=2_000, batch_size=128, steps_per_call=10))
    c.eval_every = c.save_every = 1_000
    c.data = dict(source="digits")
    c.model_name = "latent_diffusion"
    c.model = dict(first_stage_name=arg.first, num_classes=10, class_dropout=0.1, layers=4, width=96, dropout=0.1)
    c.model.lambda_max, c.model.lambda_min, c.model.patch = 8.0, -10.0, 1
    if arg.first == "vqvae":
        c.model.update(image=(4, 4, 16), first_stage=dict(image=(8, 8, 1), widths=(64,), codes=64, code_width=16))
    else:
        first = dict(image=(8, 8, 1), widths=(256, 256), activation="gelu", latent=16)
        c.model.update(image=(1, 1, 16), first_stage=first)
    c.init_from = dict(workdir=arg.run or f"runs/{arg.first}_digits", nets=dict(first_stage="net"))
    c.optim = dict(net=dict(schedule="cosine", warmup=200, clip=1.0, ema=0.999))
    c.eval_batch_size = 128
    c.evals = dict(
        loss=dict(type="mean"),
        pictures=dict(type="pictures", kinds=("samples",), n=100),
        generation=dict(type="generation", n=1_000),
    )
    return smoke(c, arg.first) if arg.smoke else c


def smoke(c, first):
    """Seconds on any machine; the first stage stays untrained."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 4, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 2, 4, 4, 2
    c.init_from.workdir, c.evals.pictures.n = "", 10
    c.model.update(layers=1, width=16, heads=2)
    if first == "vqvae":
        c.model.first_stage.update(widths=(4,), codes=16, code_width=4)
        c.model.image = (4, 4, 4)
    else:
        c.model.first_stage.widths = (8,)
    c.sampling = dict(steps=3)
    c.evals.generation.update(n=64, kid_subsets=2, features=dict(recipe=dict(widths=(4,), features=8, epochs=1)))
    return c


EXPECT = [
    dict(
        minutes=4,
        metrics=[
            dict(metric="test/fid", value=13.6, tolerance=2.5, published=5.2, source="training images"),
            dict(metric="test/as_asked", value=0.372, tolerance=0.03, published=0.922, source="test images"),
        ],
        note="One run, while the machine was busy; FID of 1,000 samples in the features of a classifier of 92.2 %.",
    )
]
