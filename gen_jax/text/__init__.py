"""Text to tokens and back."""

from gen_jax.text.bpe import BPETokenizer
from gen_jax.text.tokenizers import ByteTokenizer, CharTokenizer

__all__ = ["BPETokenizer", "ByteTokenizer", "CharTokenizer"]
