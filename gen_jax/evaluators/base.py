"""What an evaluator is given and what it gives back.

`evaluators/<type>.py` exports `Config` and `from_config(cfg, context) -> Evaluator`; the config's
`evals.<name>.type` picks the file.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import numpy as np

from gen_jax.settings import Settings
from gen_jax.state import State


class EvalConfig(Settings):
    """Fields that every evaluator has.

    split: of the data set; `train`, `validation` or `test`. Tags start with it (`val/` for validation).
    when: at each evaluation, or once at the end of training (and in `gen-jax eval`).
    """

    type: str
    split: str = "test"
    when: Literal["always", "end"] = "always"


@dataclasses.dataclass
class Report:
    """What one evaluation found. Scalars' names carry no split: the loop adds it."""

    scalars: dict[str, float] = dataclasses.field(default_factory=dict)
    images: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # uint8 [H, W, 1 or 3]
    texts: dict[str, str] = dataclasses.field(default_factory=dict)  # Markdown
    warnings: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Context:
    """What the loop lends an evaluator.

    Attributes:
      model: the model; abilities are asked for with `isinstance(model, base.Encodes)` and so on.
      info: the data set's `data.base.Info`.
      batches: split -> every example of it once, in order, as device batches with `index` [B] and `valid` [B];
        the last one is padded, so all have one shape. Ends early on SIGTERM by raising.
      batch_size: rows of those batches.
      decode_text: token ids [T] -> text, where the data are tokens.
      rng: the root key of evaluation noise.
    """

    model: Any
    info: Any
    batches: Callable[[str], Iterator[dict]]
    batch_size: int
    decode_text: Callable[[np.ndarray], str] | None
    rng: jax.Array


Evaluator = Callable[[State], Report]
