"""Vector quantisation with a codebook that follows the data by moving averages, no gradient.

Van den Oord et al. 2017 (VQ-VAE), appendix A.1. A codebook is {"counts": [K], "sums": [K, D]}: how many vectors a batch
gives each code, and their sum, both averaged over batches. D is the width of a vector.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Codebook = dict[str, Array]


def init_codebook(rng: Key[Array, ""], num_codes: int, width: int) -> Codebook:
    """Standard normal vectors, each with a count of 1."""
    return {"counts": jnp.ones(num_codes), "sums": jax.random.normal(rng, (num_codes, width))}


def vectors(book: Codebook) -> Float[Array, "K D"]:
    """Each code's vector: sum / count (eq. 8)."""
    return book["sums"] / jnp.maximum(book["counts"], 1e-20)[:, None]


def nearest(z: Float[Array, "*batch D"], table: Float[Array, "K D"]) -> Int[Array, "*batch"]:
    """The code of the nearest vector, euclidean (eq. 2)."""
    product = jnp.dot(z, table.T, precision="highest")  # bf16 passes would choose other codes
    return jnp.argmax(product - (table**2).sum(axis=1) / 2, axis=-1).astype(jnp.int32)


def straight_through(z: Float[Array, "*batch D"], q: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """`q` in the forward pass; its gradient goes to `z` unchanged."""
    return z + jax.lax.stop_gradient(q - z)


def follow(book: Codebook, z: Float[Array, "*batch D"], codes: Int[Array, "*batch"], decay: float) -> Codebook:
    """Moves counts and sums towards those of this batch by 1 - decay (eqs. 6 and 7)."""
    z = jax.lax.stop_gradient(z).reshape(-1, z.shape[-1])
    owned = jax.nn.one_hot(codes.reshape(-1), len(book["counts"]))  # [N, K]
    batch = {"counts": owned.sum(axis=0), "sums": jnp.dot(owned.T, z, precision="highest")}
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, book, batch)


def restart_dead(book: Codebook, z: Float[Array, "*batch D"], rng: Key[Array, ""], below: float) -> Codebook:
    """Sets each code that fewer than `below` vectors a batch choose to a random vector of this batch.

    It restarts with a count of `below`, so it restarts again soon unless vectors choose it (Dhariwal et al. 2020,
    section 3).
    """
    z = jax.lax.stop_gradient(z).reshape(-1, z.shape[-1])
    fresh = z[jax.random.randint(rng, book["counts"].shape, 0, len(z))]  # [K, D]
    dead = book["counts"] < below
    sums = jnp.where(dead[:, None], below * fresh, book["sums"])
    return {"counts": jnp.where(dead, below, book["counts"]), "sums": sums}


def perplexity(codes: Int[Array, "*batch"], num_codes: int) -> Float[Array, ""]:
    """exp of the entropy of the codes' frequencies: `num_codes` if all are used equally, 1 if one is used."""
    share = jnp.bincount(codes.reshape(-1), length=num_codes) / codes.size
    return jnp.exp(-jnp.sum(share * jnp.log(jnp.maximum(share, 1e-20))))
