"""Low-rank updates (Hu et al. 2021): a matrix W becomes W + alpha / r * a b. Only a [in, r] and b [r, out] train.

A matrix `kernel` in the parameters gets a sibling `kernel_lora` with the leaves `a`, `b` and `scale`. b is initialized
to 0, so training starts from the original network. Everything here works on dicts of arrays; modules are unchanged.
"""

import dataclasses
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gen_jax.core import leaves
from gen_jax.core.leaves import LORA as SUFFIX
from gen_jax.errors import ConfigError

Tree = Any


@dataclasses.dataclass(frozen=True)
class Lora:
    """What `add` adds.

    Args:
      rank: r.
      alpha: the update is scaled by alpha / rank.
      targets: regexes on the paths of matrices (`.*/qkv/kernel`): a matrix that one matches in full gets an update.
        Of scanned layers each gets its own.
      train: regexes on paths that train as they are, such as a new head; everything else is frozen.
      seed: of the values that `a` starts with, normal with variance 1 / in.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    train: tuple[str, ...] = ()
    seed: int = 0

    def add(self, params: Tree) -> Tree:
        """`params` with an entry `<name>_lora` beside each target.

        Raises:
          ConfigError: a regex that matches no leaf, or one that is no matrix.
        """
        paths = [path for path, _ in _leaves(params)]
        for key in ("targets", "train"):
            for rule in getattr(self, key):
                if not any(re.fullmatch(rule, path) for path in paths):
                    raise ConfigError(
                        f"optim.<net>.lora.{key}: {rule!r} matches no parameter; they are like {paths[0]}"
                    )
        return self._added(params, "")

    def trains(self, path: str) -> bool:
        """Whether the leaf at `path` of what `add` returned is trained."""
        parent, _, name = path.rpartition("/")
        if parent.endswith(SUFFIX):
            return name in ("a", "b")
        return any(re.fullmatch(rule, path) for rule in self.train)

    def _added(self, tree: Tree, path: str) -> Tree:
        added = {}
        for name, leaf in tree.items():
            here = f"{path}{name}"
            if isinstance(leaf, Mapping):
                added[name] = self._added(leaf, f"{here}/")
                continue
            added[name] = leaf
            if any(re.fullmatch(rule, here) for rule in self.targets):
                added[name + SUFFIX] = self._factors(leaf, here)
        return added

    def _factors(self, matrix: jax.Array, path: str) -> Tree:
        leaf = leaves.classify(path)
        if leaf.vector or leaf.kind == "convolution" or matrix.ndim != 2 + leaf.stacked:
            raise ConfigError(f"optim.<net>.lora.targets: expected matrices, got {path} {list(matrix.shape)}")
        *stack, rows, columns = matrix.shape
        key = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(path.encode()))
        return {
            "a": jax.random.normal(key, (*stack, rows, self.rank), matrix.dtype) * rows**-0.5,
            "b": jnp.zeros((*stack, self.rank, columns), matrix.dtype),
            "scale": jnp.full(stack, self.alpha / self.rank, matrix.dtype),
        }


def merge(params: Tree) -> Tree:
    """The parameters of the plain network: W + scale * a b for each update, without the entries `_lora`."""
    if not isinstance(params, Mapping):
        return params
    merged = {name: merge(leaf) for name, leaf in params.items() if not name.endswith(SUFFIX)}
    for name, factors in params.items():
        if name.endswith(SUFFIX):
            merged[name.removesuffix(SUFFIX)] += factors["scale"][..., None, None] * (factors["a"] @ factors["b"])
    return merged


def split(params: Tree) -> tuple[Tree, Tree]:
    """(the parameters without their updates, the updates alone). `join` undoes it."""
    if not isinstance(params, Mapping):
        return params, None
    plain, updates = {}, {}
    for name, leaf in params.items():
        if name.endswith(SUFFIX):
            updates[name] = leaf
            continue
        plain[name], inner = split(leaf)
        if inner:
            updates[name] = inner
    return plain, updates


def join(plain: Tree, updates: Tree) -> Tree:
    """The tree that `split` took apart. `plain` may hold other values, or be a part of it."""
    joined = dict(plain)
    for name, leaf in updates.items():
        joined[name] = leaf if name.endswith(SUFFIX) else join(plain[name], leaf)
    return joined


def _leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, leaf in tree.items():
        if isinstance(leaf, Mapping):
            yield from _leaves(leaf, f"{path}{name}/")
        else:
            yield f"{path}{name}", leaf
