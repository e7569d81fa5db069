"""For speed only: DCGAN at 32x32x3, 64 to 256 channels, latent 100, batch 64, as PyTorch's baseline `dcgan`.

`gen-jax bench --config=experiments/gan/bench_dcgan.py --seconds=5`
On 2 cores 1.05 times as fast as PyTorch eager (median of 7 interleaved rounds, 0.89 to 1.15), 111 ms a step at best.
The same networks, losses and updates (ours have biases); the baseline's critic also gets gradients in the generator's
turn, which it throws away.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=2_000, batch_size=64))
    c.log_every = 200
    c.data = dict(source="stacked", of=dict(source="digits", size=32))
    c.model_name = "gan"
    c.model = dict(image=(32, 32, 3), net="dcgan", widths=(256, 128, 64), critic_norm="batch", latent=100)
    adam = dict(lr=2e-4, b1=0.5, b2=0.999)
    c.optim = dict(gen=adam, disc=adam)
    c.eval_batch_size = 64
    c.evals = dict(critic=dict(type="mean"))
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.log_every, c.model.widths = 4, 16, 4, (8, 8, 4)
    return c
