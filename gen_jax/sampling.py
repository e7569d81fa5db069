"""How samples are drawn."""

import dataclasses

import jax
from jaxtyping import Array, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """What a user can ask of `Model.sample`; a model ignores what it has no use for.

    Attributes:
      temperature: scales the noise (latents) or divides the logits (tokens, codes); 1 is the model itself, 0 its mode.
      label: the class of every sample; None takes all classes in turn.
      length: tokens to generate.
      prompt: token ids that the samples go on from.
    """

    temperature: float = 1.0
    label: int | None = None
    length: int = 256
    prompt: tuple[int, ...] = ()


def sample_categorical(
    rng: Key[Array, ""], logits: Float[Array, "*batch V"], temperature: float = 1.0
) -> Int[Array, "*batch"]:
    """A draw from softmax(logits / temperature); temperature 0 gives the most likely class."""
    if temperature == 0:
        return logits.argmax(-1)
    return jax.random.categorical(rng, logits / temperature)
