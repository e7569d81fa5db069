"""Small VAEs and their data."""

import jax
import jax.numpy as jnp
import numpy as np

SMALL = dict(image=(4, 4, 1), widths=(8,), latent=3)


def batch_of(n=6, shape=(4, 4, 1), seed=0):
    image = np.random.RandomState(seed).randint(0, 256, (n, *shape))
    return {
        "image": jnp.asarray(image, jnp.uint8),
        "label": jnp.arange(n, dtype=jnp.int32) % 3,
        "index": jnp.arange(n, dtype=jnp.int32),
        "valid": jnp.ones(n, bool),
    }


def started(model, batch, steps=3):
    """A state whose posterior is not the prior."""
    state = jax.jit(model.init)(jax.random.key(0), batch)
    step = jax.jit(model.train_step)
    for _ in range(steps):
        state, _ = step(state, batch, jax.random.key(1))
    return state
