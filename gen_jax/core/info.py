"""What a data set declares about its examples, for models, samplers and evaluators."""

import dataclasses
from typing import Any, NamedTuple

from gen_jax.errors import ConfigError

EXAMPLES = {
    "image": "images",
    "tokens": "tokens",
    "vector": "vectors",
    "pairs": "pairs of texts",
    "audio": "sound",
    "unpaired": "two unpaired sets of images",
}


class Mixture(NamedTuple):
    """Equally likely Gaussians: centres, D numbers each, and the standard deviation of every coordinate."""

    centres: tuple[tuple[float, ...], ...]
    sigma: float


@dataclasses.dataclass(frozen=True)
class Info:
    """What a model may need to know of a data set.

    Attributes:
      kind: what an example is: one of `EXAMPLES`, or a word of your own, for a model and a source that agree on it.
      shape: of one example: (H, W, C), (T + 1,) or (D,); (S, T + 1), most source and target tokens, of pairs; (T,) of
        sound; (H, W, C) of an image of either of two unpaired sets.
      num_classes: 0 where there are no labels.
      class_names: one a class, or empty.
      vocab_size: 0 where there are no tokens.
      captions: of images: some captions, token ids [S] that 0 pads, S that of the longest; () where there are none.
      end: the token before each document; None if there is none.
      records: each example is one record of text, a row `[end, t_1 ... t_n, end, padding]`.
      sample_rate: of sound, in Hz; 0 where there is none.
      entropy: of the source, nats a token or value, where it is known.
      aligned: of unpaired sets: row i of both is the same picture in all splits but train, so that a translation can be
        held against the truth.
      mixture: what vectors are drawn from, where it is known.
    """

    kind: str
    shape: tuple[int, ...]
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    vocab_size: int = 0
    captions: tuple[tuple[int, ...], ...] = ()
    end: int | None = None
    records: bool = False
    sample_rate: int = 0
    entropy: float | None = None
    aligned: bool = False
    mixture: Mixture | None = None

    def require_kind(self, *kinds: str) -> None:
        """Raises ConfigError if the examples are of a kind that the model does not read."""
        if self.kind not in kinds:
            wanted = " or ".join(EXAMPLES.get(kind, kind) for kind in kinds)
            raise ConfigError(f"config.data: expected {wanted}, as the model reads, found {self.kind}")

    def require_equal(self, field: str, value: Any, found: Any) -> None:
        """Raises ConfigError if the field `config.model.<field>` differs from the value found in the data."""
        if value != found:
            raise ConfigError(f"config.model.{field}: expected {found}, as in the data, got {value}")

    def require_images(self, field: str, image: tuple[int, ...]) -> None:
        """Raises ConfigError if the data are not images of this height, width and number of channels."""
        self.require_kind("image")
        self.require_equal(field, image, self.shape)

    def require_classes(self, field: str, number: int) -> None:
        """Raises ConfigError if a model is conditioned on another number of classes than the data have; 0 is none."""
        if number:
            self.require_equal(field, number, self.num_classes)

    def require_captions(self, field: str, vocab: int) -> None:
        """Raises ConfigError if a model reads captions of another number of tokens than the data's; 0 reads none."""
        if vocab and not self.captions:
            raise ConfigError(f"config.model.{field}: expected 0, the data have no captions, got {vocab}")
        if vocab:
            self.require_equal(field, vocab, self.vocab_size)

    def require_vocabulary(self, field: str, vocab: int) -> None:
        """Raises ConfigError if the data have no tokens, or more of them than the model."""
        if not self.vocab_size:
            raise ConfigError(f"config.data: expected tokens, as the model reads, found {self.kind}")
        if self.vocab_size > vocab:
            raise ConfigError(f"config.model.{field}: expected at least {self.vocab_size}, as in the data, got {vocab}")
