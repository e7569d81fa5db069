"""A diffusion Transformer that draws coloured shapes from captions; the captions of the test split are new to it.

`gen-jax train --config=experiments/diffusion/shapes.py --workdir=runs/diffusion_shapes`
`gen-jax sample --workdir=runs/diffusion_shapes --caption="two red circles on the left" --guidance=2`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=15_000, batch_size=64, steps_per_call=10))
    c.eval_every, c.save_every = 5_000, 1_000
    c.data = dict(source="shapes", size=16, test=0.2)
    c.model_name = "diffusion"
    c.model = dict(image=(16, 16, 3), vocab=26, caption_dropout=0.1)
    c.model.update(patch=4, layers=4, width=96)
    c.optim = dict(net=dict(schedule="cosine", warmup=200, clip=1.0, ema=0.999))
    c.eval_batch_size = 128
    c.evals = dict(
        bound=dict(type="mean", split="validation"),
        captions=dict(type="captions", sampling=dict(guidance=2.0)),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 64
    c.log_every, c.eval_every, c.save_every, c.optim.net.warmup = 4, 8, 8, 2
    c.data.examples = 400
    c.model.update(patch=8, layers=1, caption_layers=1, width=16)
    c.sampling, c.evals.captions.n = dict(steps=3), 10
    return c
