"""Text to tokens and back."""

from gen_jax.text.bpe import BPETokenizer
from gen_jax.text.end import WithEnd
from gen_jax.text.saved import LARGEST, from_json, why_not_exact
from gen_jax.text.tokenizers import ByteTokenizer, CharTokenizer
from gen_jax.text.words import WordTokenizer

__all__ = [
    "LARGEST",
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "WithEnd",
    "WordTokenizer",
    "from_json",
    "why_not_exact",
]
