"""Classifies parameters by their paths, for weight decay, Muon, Adafactor, low-rank updates and sharding.

The names of a leaf and of the modules around it determine its kind. Its rank does not: norm scales of scanned layers
are [L, D], like a matrix. A leaf that no rule matches is `other` and is treated as a vector, so a new model should call
its own weights `kernel`.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

Kind = Literal["matrix", "convolution", "head", "embedding", "norm", "bias", "other"]

SCANNED = "layers"  # the module whose leaves `nn.scan` stacks, [L, ...]
LORA = "_lora"  # `kernel_lora/a` [in, r] and `kernel_lora/b` [r, out] are an update of `kernel`

# (regex on the whole path, kind); the first that matches decides
RULES: tuple[tuple[str, Kind], ...] = (
    (r"(.*/)?ConditionalBatchNorm_\d+/.*", "norm"),  # tables of scales and offsets, a row a class
    (r"(.*/)?scale", "norm"),
    (r"(.*/)?(recurrent_)?bias", "bias"),
    (r"(.*/)?embedding", "embedding"),
    (r"(.*/)?(logits|head|Logit_\d+/Dense_\d+)/kernel", "head"),
    (r"(.*/)?(Conv|ConvTranspose)_\d+/kernel", "convolution"),
    (r"(.*/)?(kernel|recurrent)", "matrix"),
)
TRANSPOSED = r"(.*/)?ConvTranspose_\d+/kernel"  # [h, w, out, in]; other kernels have their outputs last


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter.

    Attributes:
      kind: `matrix` and `convolution` are hidden weights; `head` is the last layer of a classifier of tokens or of a
        critic; `embedding` is any table, of positions too; `other` are gates, scales and what is not known.
      stacked: axis 0 is the layer.
      output: the axis of outputs, counted from the end. The other axes of a layer are contracted with the input.
      blocks: matrices of equal width side by side on that axis.
    """

    kind: Kind
    stacked: bool = False
    output: int = -1
    blocks: int = 1

    @property
    def vector(self) -> bool:
        """Whether the leaf gets no weight decay and no factors: norms, biases and `other`."""
        return self.kind in ("norm", "bias", "other")

    @property
    def hidden(self) -> bool:
        """Whether Muon updates the leaf."""
        return self.kind in ("matrix", "convolution")


def stacked(path: str) -> bool:
    """Whether axis 0 of the leaf is the layer."""
    return SCANNED in path.split("/")[:-1]


def classify(path: str, fused: Mapping[str, int] | None = None) -> Leaf:
    """The leaf at `path` (`blocks/layers/mlp/up/kernel`).

    Args:
      fused: {regex on the path of a kernel: how many matrices of equal width it holds side by side}.
    """
    base, update, factor = path.partition(f"{LORA}/")
    if update and factor not in ("a", "b"):
        return Leaf("other", stacked(path))
    kinds: list[Kind] = [kind for pattern, kind in RULES if re.fullmatch(pattern, base)]
    kind = kinds[0] if kinds else "other"
    if factor == "a":  # its outputs are the r columns
        return Leaf(kind, stacked(path))
    blocks = next((n for pattern, n in (fused or {}).items() if re.fullmatch(pattern, base)), 1)
    return Leaf(kind, stacked(path), -2 if re.fullmatch(TRANSPOSED, path) else -1, blocks)
