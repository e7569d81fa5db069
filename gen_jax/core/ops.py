"""Small pure functions on arrays, shared by models and networks."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Int16, Key, UInt8

from gen_jax import compat

ROWS = ("data", "fsdp")  # the axes of a mesh that cut the rows of a batch
_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)
_forward: contextvars.ContextVar[bool] = contextvars.ContextVar("forward", default=False)


def platform() -> str:
    """The platform that is compiled for: cpu, gpu or tpu. `compiling_for` can set another than the local one."""
    return _platform.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """Code traced inside is for devices of the platform `name`."""
    token = _platform.set(name)
    try:
        yield
    finally:
        _platform.reset(token)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """Code traced inside is differentiated by `jax.jvp`: it takes no kernel that has a `jax.custom_vjp` alone."""
    token = _forward.set(True)
    try:
        yield
    finally:
        _forward.reset(token)


def in_forward_mode() -> bool:
    """Whether the code is traced inside `forward_mode`."""
    return _forward.get()


def to_unit(image: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """uint8 pixels to [0, 1]."""
    return image.astype(jnp.float32) / 255


def to_signed(image: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """uint8 pixels to [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1


def to_uint8(unit: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """[0, 1] to uint8 pixels, rounded and clipped."""
    return jnp.round(jnp.clip(unit, 0, 1) * 255).astype(jnp.uint8)


def signed_to_uint8(signed: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """[-1, 1] to uint8 pixels, as `to_uint8`."""
    return to_uint8((signed + 1) / 2)


def compand(x: Float[Array, "*shape"], mu: int = 255) -> Float[Array, "*shape"]:
    """Mu-law companding of [-1, 1]: sign(x) ln(1 + mu |x|) / ln(1 + mu). ITU-T G.711, the continuous form."""
    return jnp.sign(x) * jnp.log1p(mu * jnp.abs(x)) / math.log1p(mu)


def expand(y: Float[Array, "*shape"], mu: int = 255) -> Float[Array, "*shape"]:
    """Undoes `compand`."""
    return jnp.sign(y) * jnp.expm1(jnp.abs(y) * math.log1p(mu)) / mu


def mu_law_encode(audio: Int16[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Sound to the nearest of 256 codes int32, evenly spaced over the companded range; silence is 128.

    The round trip through `mu_law_decode` moves x in [-1, 1] by at most (1/255 + |x|) (256 ** (1/255) - 1), and half a
    unit of int16 by rounding.
    """
    companded = compand(audio.astype(jnp.float32) / 32768)
    return jnp.floor((companded + 1) / 2 * 255 + 0.5).astype(jnp.int32)


def mu_law_decode(codes: Int[Array, "*shape"]) -> Int16[Array, "*shape"]:
    """Codes back to sound."""
    return to_int16(expand(2 * codes.astype(jnp.float32) / 255 - 1))


def to_int16(x: Float[Array, "*shape"]) -> Int16[Array, "*shape"]:
    """[-1, 1] to sound, rounded and clipped."""
    return jnp.round(jnp.clip(x * 32768, -32768, 32767)).astype(jnp.int16)


def _rows(draw: Callable[..., jax.Array], rng: Key[Array, "*rows"], shape: tuple[int, ...]) -> jax.Array:
    if rng.ndim == 0:
        return draw(rng, shape)
    return jax.vmap(lambda key: draw(key, shape[1:]))(rng)


def normal(rng: Key[Array, "*rows"], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal noise of `shape` [B, ...], from one key, or from one key a row (`rng` [B]).

    Evaluation passes a key for each example, so that its noise does not depend on the batch it came in.
    """
    return _rows(jax.random.normal, rng, shape)


def uniform(rng: Key[Array, "*rows"], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Uniform noise in [0, 1), keyed like `normal`."""
    return _rows(jax.random.uniform, rng, shape)


def spread(rng: Key[Array, "*rows"], n: int) -> Float[Array, " n"]:
    """Uniform numbers in [0, 1) for n rows. From one key they are evenly spaced, with one random offset.

    So the mean over a batch varies less (Kingma et al. 2021, appendix I.1). From one key a row they are independent.
    """
    return uniform(rng, (n,)) if rng.ndim else (jnp.arange(n) / n + jax.random.uniform(rng)) % 1.0


def split(rng: Key[Array, "*rows"], num: int) -> list[Key[Array, "*rows"]]:
    """`num` independent keys of the same shape as `rng` ([] or [B])."""
    if rng.ndim == 0:
        return list(jax.random.split(rng, num))
    return list(jax.vmap(lambda key: jax.random.split(key, num), out_axes=1)(rng))


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Shards `x` over the mesh: `axes` names ROWS, "model" or None (replicated) for its leading axes.

    An axis that the mesh does not divide is left to the compiler. Without a mesh (under pmap, in evaluation) or on one
    device, this returns `x`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or mesh.manual_axes:
        return x

    def fitting(n, axis):
        pieces = math.prod(mesh.shape[name] for name in (axis if isinstance(axis, tuple) else (axis,)) if name)
        return P.UNCONSTRAINED if n % pieces else axis

    return jax.lax.with_sharding_constraint(x, P(*map(fitting, x.shape, axes)))


def row_keys(rng: Key[Array, ""], index: jax.Array) -> Key[Array, " B"]:
    """One key for each example, by its index [B] in the split."""
    return jax.vmap(functools.partial(jax.random.fold_in, rng))(index)


def fold_in(keys: Key[Array, " B"], number: jax.Array | int) -> Key[Array, " B"]:
    """Each key with the same number folded in."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def convolves(jaxpr: Any) -> bool:
    """Whether `jaxpr` holds a convolution. XLA's CPU backend runs one in a loop 7 to 30 times slower than outside."""
    return any(
        equation.primitive.name == "conv_general_dilated"
        or any(convolves(inner.jaxpr) for inner in compat.inner_jaxprs(equation))
        for equation in jaxpr.eqns
    )


def scan(body: Callable, init: Any, xs: Any) -> tuple[Any, Any]:
    """`lax.scan`, unrolled on CPU if the body holds a convolution. A single iteration is no loop at all."""
    first = jax.tree.map(lambda x: x[0], xs)
    if len(jax.tree.leaves(xs)[0]) == 1:  # which `unroll` leaves a loop
        carry, y = body(init, first)
        return carry, jax.tree.map(lambda y: y[None], y)
    unroll = platform() == "cpu" and convolves(jax.make_jaxpr(body)(init, first).jaxpr)
    return jax.lax.scan(body, init, xs, unroll=unroll)


def where_due(due: Bool[Array, ""], compute: Callable[[], jax.Array]) -> jax.Array:
    """`compute()` if it is due, else zeros of its shape, without computing it.

    On CPU a function with convolutions is always computed: they are as slow in a branch as in a loop.
    """
    jaxpr, shape = jax.make_jaxpr(compute, return_shape=True)()
    if platform() == "cpu" and convolves(jaxpr.jaxpr):
        return jnp.where(due, compute(), 0)
    return jax.lax.cond(due, compute, lambda: jnp.zeros(shape.shape, shape.dtype))
