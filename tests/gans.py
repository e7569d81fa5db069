"""Small GANs on points, and their data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gen_jax.core.gradients import Gradients, Optimizer
from gen_jax.models import gan

ROOT = jax.random.key(0)


def build(micro_batches=1, rate=1e-2, **fields):
    optimizer = Optimizer(optax.adam(rate), ema_decay=0.9, gradients=Gradients(micro_batches))
    cfg = gan.Config(**(dict(data_dim=2, widths=(8,), latent=4, n_critic=2) | fields))
    return gan.from_config(cfg, {"gen": optimizer, "disc": optimizer})


def batch_of(rows, seed=0):
    vector = np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)
    return {"vector": jnp.asarray(vector), "index": jnp.arange(rows), "valid": jnp.ones(rows, bool)}
