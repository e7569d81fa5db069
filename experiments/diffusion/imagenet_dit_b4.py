"""DiT-B/4 on ImageNet of 256x256 pixels, over latents 32x32x4 of a VQ-VAE, for TPUs. Not run: planned.

`gen-jax train --config=experiments/diffusion/imagenet_dit_b4.py:run=runs/vqvae_imagenet --workdir=runs/imagenet_dit_b4`
The first stage has a book of 16,384 codes and a factor of 8 (Rombach et al. 2022, table 8, VQ-f8). Its codes of
1,281,167 pictures stay on each chip, 2.6 GB. `gen-jax data prepare imagenet2012` says where the pictures come from.
`gen-jax plan --config=experiments/diffusion/imagenet_dit_b4.py --topology=v5e:4x4` needs neither.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, run="")  # run: the first stage


def get_config(arg):
    c = ConfigDict(dict(total_steps=400_000, batch_size=1024, eval_batch_size=1024, steps_per_call=10))
    c.eval_every = c.save_every = 10_000
    c.data = dict(source="tfds", name="imagenet2012", size=256)
    c.model_name = "latent_diffusion"
    c.model = dict(image=(32, 32, 4), patch=4, layers=12, heads=12, width=768, num_classes=1000, class_dropout=0.1)
    c.model.update(curve="flow", scaling="flow", target="u", weighting="u", times="logit_normal")
    c.model.update(scan_layers=True, dtype="bfloat16")
    c.model.first_stage = dict(image=(256, 256, 3), widths=(128, 256, 512), codes=16_384, code_width=4)
    c.init_from = dict(workdir=arg.run or "runs/vqvae_imagenet", nets=dict(first_stage="net"))
    c.optim = dict(net=dict(name="adamw", lr=1e-4, warmup=5_000, clip=1.0, ema=0.9999))
    c.sampling = dict(steps=50, guidance=1.5)
    c.evals = dict(
        loss=dict(type="mean", split="validation"),
        pictures=dict(type="pictures", split="validation", kinds=("samples",)),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine; the first stage stays untrained."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 4, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 2, 4, 4, 2
    c.data, c.init_from.workdir, c.evals.pictures.n = dict(source="digits"), "", 10
    c.model.update(image=(4, 4, 4), patch=2, layers=1, heads=2, width=16, num_classes=10)
    c.model.first_stage.update(image=(8, 8, 1), widths=(4,), codes=16)
    c.sampling = dict(steps=3)
    return c


EXPECT = [
    dict(
        machine="TPU v5e:4x4",
        note="Not run. Planned: 7.1 GB, 42 % of a chip, beside 2.6 GB of codes; a step of 0.048 s; an MFU of 22 %. "
        "FID elsewhere: 43.5 of DiT-B/2 without guidance, 11.35 of MeanFlow-B/4 with one evaluation.",
    )
]
