"""Saved tokenisers, whatever their kind."""

import json

from gen_jax.text.bpe import BPETokenizer
from gen_jax.text.tokenizers import ByteTokenizer, CharTokenizer


def from_json(text: str) -> ByteTokenizer | CharTokenizer | BPETokenizer:
    """Undoes `to_json`: {"kind": "byte"}, {"kind": "char", "alphabet": ...}, or the library `tokenizers`' own format.

    Raises ValueError for anything else.
    """
    found = json.loads(text)
    if isinstance(found, dict):
        if found.get("kind") == "byte":
            return ByteTokenizer()
        alphabet = found.get("alphabet")
        if found.get("kind") == "char" and isinstance(alphabet, str) and alphabet == "".join(sorted(set(alphabet))):
            return CharTokenizer(alphabet)
        if "model" in found:
            try:
                tokenizer = BPETokenizer(text)
                _ = tokenizer.vocab_size
                return tokenizer
            except Exception as error:  # the library raises no narrower kind
                raise ValueError(str(error)) from None
    raise ValueError("expected a tokeniser of kind byte or char, or one of the library tokenizers")
