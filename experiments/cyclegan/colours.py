"""CycleGAN on the embedded digits, or MNIST, in two worlds of colours, B's a known map of A's; no pair is ever shown.

`gen-jax train --config=experiments/cyclegan/colours.py --workdir=runs/cyclegan_digits`, or `:data=mnist`
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, data=("digits", "mnist"))


def get_config(arg):
    mnist = arg.data == "mnist"
    c = ConfigDict(dict(total_steps=3_000, batch_size=16))
    c.eval_every = c.save_every = 1_000
    c.data = dict(source="colours", of=dict(source="tfds", name="mnist") if mnist else dict(source="digits"))
    c.model_name = "cyclegan"
    c.model = dict(image=(28, 28, 3) if mnist else (8, 8, 3), width=16, stages=0, blocks=2, kernel=3)
    c.model.critic_width, c.model.critic_stages = 16, 2 if mnist else 1
    c.model.norm, c.model.buffer = "none", 4  # the colours of a whole image matter
    gen, disc = dict(b1=0.5, schedule="linear", ema=0.99), dict(b1=0.5)
    c.optim = dict(gen_ab=gen, gen_ba=gen, disc_a=disc, disc_b=disc)
    c.eval_batch_size = 250 if mnist else 128
    c.evals = dict(
        losses=dict(type="mean", when="end" if mnist else "always"), translation=dict(type="image_translation")
    )
    return smoke(c, mnist) if arg.smoke else c


def smoke(c, mnist):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 8, 32
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.model.width, c.model.blocks, c.model.critic_width, c.model.buffer = 8, 1, 8, 2
    if mnist:
        c.data.of = dict(source="digits", size=28)
        c.model.width = c.model.critic_width = 4
    return c


EXPECT = [
    dict(
        minutes=8,
        metrics=[
            dict(
                metric="test/error_a2b",
                value=0.024,
                tolerance=0.006,
                unit="of the range",
                published=0.15,
                source="best single picture",
            ),
            dict(
                metric="test/error_b2a",
                value=0.025,
                tolerance=0.006,
                unit="of the range",
                published=0.15,
                source="best single picture",
            ),
        ],
        note="An image as it is: 0.62.",
    ),
    dict(
        arg="data=mnist",
        minutes=5,
        metrics=[
            dict(
                metric="test/error_a2b",
                value=0.0129,
                tolerance=0.004,
                unit="of the range",
                published=0.13,
                source="best single picture",
            ),
            dict(
                metric="test/error_b2a",
                value=0.0137,
                tolerance=0.004,
                unit="of the range",
                published=0.13,
                source="best single picture",
            ),
        ],
        note="An image as it is: 0.71.",
    ),
]
