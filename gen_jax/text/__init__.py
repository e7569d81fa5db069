"""Text to tokens and back."""

from gen_jax.text.bpe import BPETokenizer
from gen_jax.text.end import WithEnd
from gen_jax.text.saved import from_json
from gen_jax.text.tokenizers import ByteTokenizer, CharTokenizer

__all__ = ["BPETokenizer", "ByteTokenizer", "CharTokenizer", "WithEnd", "from_json"]
