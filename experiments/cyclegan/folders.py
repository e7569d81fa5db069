"""CycleGAN on two folders of your own pictures, with the paper's networks: 256x256, instance norm, identity loss.

`gen-jax train --config=experiments/cyclegan/folders.py --workdir=runs/cyclegan_folders --config.data.a.path=photos/a
--config.data.b.path=photos/b`, then
`gen-jax sample --workdir=runs/cyclegan_folders --translate=a2b --images=photos/new`
For a GPU. On 2 cores take smaller ones: `--config.data.a.size=64 --config.data.b.size=64
--config.model.image="(64, 64, 3)" --config.model.width=16 --config.model.blocks=3`.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=200_000, batch_size=1))
    c.eval_every = c.save_every = 10_000
    folder = dict(source="image_folder", size=256, validation=0.0, test=0.05)
    c.data = dict(source="unpaired", a=dict(folder, path="photos/a"), b=dict(folder, path="photos/b"))
    c.model_name = "cyclegan"
    c.model = dict(identity=2.5)  # the others are the model's defaults
    adam = dict(lr=2e-4, b1=0.5, schedule="linear")
    c.optim = dict(gen_ab=adam, gen_ba=adam, disc_a=adam, disc_b=adam)
    c.eval_batch_size = 4
    c.evals = dict(
        losses=dict(type="mean"),
        translation=dict(type="image_translation"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine: the embedded digits instead of folders."""
    c.total_steps, c.batch_size, c.eval_batch_size = 4, 8, 32
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.data.a, c.data.b = dict(source="digits", size=16), dict(source="digits", size=16, split_seed=1)
    c.model.image, c.model.width, c.model.stages, c.model.blocks, c.model.kernel = (16, 16, 1), 4, 1, 1, 3
    c.model.critic_width, c.model.critic_stages, c.model.buffer = 4, 1, 2
    return c


EXPECT = [dict(flags=("data.a.path=photos/a", "data.b.path=photos/b"), machine="a GPU", note="Not run to its end.")]
