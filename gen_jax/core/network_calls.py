"""How often a function calls its networks, counted while it runs: loops, guidance and early ends are as they happen."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax


class Count:
    """Rows that networks were given: a call on [B, ...] adds B. Read it after `counted`.

    A call on no values, such as an empty prompt, adds nothing.
    """

    def __init__(self) -> None:
        self.rows, self._depth = 0, 0

    def _add(self, rows: int) -> None:
        self.rows += rows

    def intercept(self, next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        """A method of a module. Only the outermost call counts: submodules are parts of a network."""
        arrays = [x for x in jax.tree.leaves((args, kwargs)) if getattr(x, "shape", ())]
        if not self._depth and context.method_name != "setup" and arrays and arrays[0].size:
            jax.debug.callback(functools.partial(self._add, len(arrays[0])))
        self._depth += 1
        try:
            return next_fun(*args, **kwargs)
        finally:
            self._depth -= 1


@contextlib.contextmanager
def counted() -> Iterator[Count]:
    """Counts the calls of Linen modules in the block, whose functions must be traced in it.

    Functions that were compiled before count nothing.
    """
    count = Count()
    with nn.intercept_methods(count.intercept):
        yield count
        jax.effects_barrier()
