"""Saved tokenisers, whatever their kind."""

from typing import Any

from gen_jax.io import json_text
from gen_jax.text import bpe
from gen_jax.text.bpe import BPETokenizer
from gen_jax.text.tokenizers import ByteTokenizer, CharTokenizer

LARGEST = 2**26  # bytes of a file; those of large vocabularies have half of it
MOST = 2**22  # lists and sections in it
# what tokenisers tend to change: marks and compositions, white space, capitals, rare letters, names of special tokens
AWKWARD = (
    "The quick brown fox. the QUICK, brown FOX!",
    " two  spaces   and more    ",
    "\n",
    "line\nline\n\n\r\nline\rline\t\ttab \t \n ",
    "na\u00efve Fu\u00df \u0130stanbul cafe\u0301 \u1e9b\u0323 \u00c5 \u212b \ufb01 \u00bd \u2460",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3000\u3053\u3093\u306b\u3061\u306f \ud55c\uae00 \u1112\u1161\u11ab",
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u200b\u00a0\u2009\ufeff\u2581\u0120",
    "\x00\x01\x1b\x7f\x85\ufffd\U0010ffff",
    "<s> </s> [UNK] [CLS] <unk> <pad> <|endoftext|> <|im_start|> <0x0A> ##a @@ \\n",
    "1234567890 3.14 1e-5 don't I'LL _x_ a_b",
)


def from_json(text: str) -> ByteTokenizer | CharTokenizer | BPETokenizer:
    """Undoes `to_json`: {"kind": "byte"}, {"kind": "char", "alphabet": ...}, or the library `tokenizers`' own format.

    Raises ValueError for anything else, and for files too large or too deep.
    """
    if len(text) > LARGEST or text.count("[") + text.count("{") > MOST:
        raise ValueError(f"found more than {LARGEST:,} bytes or {MOST:,} lists")
    found = json_text.loads(text)
    if isinstance(found, dict):
        if found.get("kind") == "byte":
            return ByteTokenizer()
        alphabet = found.get("alphabet")
        if found.get("kind") == "char" and isinstance(alphabet, str) and _is_alphabet(alphabet):
            return CharTokenizer(alphabet)
        if "model" in found:
            return bpe.read(text)
    raise ValueError("found neither one of kind byte or char nor one of the library tokenizers")


def _is_alphabet(text: str) -> bool:
    return text == "".join(sorted(set(text))) and not any("\ud800" <= c <= "\udfff" for c in text)


def why_not_exact(tokenizer: Any) -> str:
    """Why `decode(encode(text))` is not `text` for every text; "" where nothing shows that. A char alphabet has its own
    errors."""
    if not isinstance(tokenizer, BPETokenizer):
        return ""
    if name := _changes(json_text.loads(tokenizer.json).get("normalizer")):
        return f"its normalizer {name} changes texts"
    try:
        for text in AWKWARD:
            tokenizer.encode(text)
    except ValueError as error:
        return str(error)
    return ""


def _changes(normalizer: Any) -> str:
    """The first kind of normalizer that is not an empty list of them; "" where there is none."""
    if not isinstance(normalizer, dict):
        return ""
    if normalizer.get("type") == "Sequence":
        return next((name for one in normalizer.get("normalizers", ()) if (name := _changes(one))), "")
    return str(normalizer.get("type"))
