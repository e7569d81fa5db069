"""For speed only, as `docs/peers/denoisers.py` in PyTorch: a DiT, or a U-Net, on 28x28 images.

`gen-jax bench --config=experiments/diffusion/bench.py --seconds=5`, or `:net=unet`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, net=("dit", "unet"))
NETS = dict(dit=dict(patch=4, positions="learned"), unet=dict(patch=1, widths=(32, 64, 96), attention=(7,)))


def get_config(arg):
    c = ConfigDict(dict(batch_size=64, eval_batch_size=64, total_steps=2_000, log_every=200))
    c.data = dict(source="digits", size=28)
    c.model_name = "diffusion"
    c.model = dict(net=arg.net, image=(28, 28, 1), num_classes=10, class_dropout=0.1)
    c.model.update(NETS[arg.net])
    c.optim = dict(net=dict(ema=0.999))
    c.evals = dict(bound=dict(type="mean"))
    return smoke(c, arg.net) if arg.smoke else c


def smoke(c, net):
    """Seconds on any machine."""
    c.batch_size, c.total_steps, c.log_every = 16, 4, 4
    c.model.update(dict(layers=1, width=16) if net == "dit" else dict(widths=(8, 8, 8)))
    return c
