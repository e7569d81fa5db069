"""Text files: UTF-8 with or without a byte order mark, which is no character; line ends stay as they are."""

import codecs
import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from gen_jax.errors import DataError

HEAD = 4096  # bytes that show a file of two bytes a character
CHUNK = 2**18  # bytes that are read at once
MARK = "\ufeff"  # how a byte order mark is decoded
LINE_END = re.compile(r"\r\n|\n|\r")


def decode(content: bytes, name: Any) -> str:
    """The text of a whole file. Raises DataError, which begins with `name`, where it is not UTF-8."""
    _refuse_wide(content[:HEAD], name)
    try:
        return content.decode().removeprefix(MARK)
    except UnicodeDecodeError as error:
        raise _not_utf8(name, error.start) from None


def decoded(file: BinaryIO | io.BufferedIOBase, name: Any) -> Iterator[str]:
    """`decode` of an open file, in pieces of any size; closes it."""
    decoder, place, first = codecs.getincrementaldecoder("utf-8")(), 0, True
    with file:
        while chunk := file.read(CHUNK):
            if not place:
                _refuse_wide(chunk[:HEAD], name)
            cut = len(decoder.getstate()[0])  # bytes of a character that the chunk before began
            try:
                text = decoder.decode(chunk)
            except UnicodeDecodeError as error:
                raise _not_utf8(name, place - cut + error.start) from None
            place += len(chunk)
            if text:
                yield text.removeprefix(MARK) if first else text
                first = False
    if cut := len(decoder.getstate()[0]):
        raise _not_utf8(name, place - cut)


def lines(text: str) -> list[str]:
    """Its lines without what ends them: LF, CR LF, or CR alone."""
    found = LINE_END.split(text)
    return found if found[-1] else found[:-1]


def _refuse_wide(head: bytes, name: Any) -> None:
    """Raises DataError if the first bytes of a file are of UTF-16 or UTF-32.

    They begin with the mark of one; or, most at even or most at odd places are control characters other than tab and
    line ends: the high bytes of Latin, Greek, Cyrillic, Hebrew or Arabic letters, which are valid UTF-8.
    """
    table = np.frombuffer(head[: len(head) // 2 * 2], np.uint8).reshape(-1, 2)
    control = (table < 0x20) & ~np.isin(table, [0x09, 0x0A, 0x0D])
    shares = sorted(control.mean(axis=0)) if len(table) else (0.0, 0.0)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (shares[1] > 0.5 and shares[0] < 0.6):
        raise DataError(f"{name}: not UTF-8, this looks like UTF-16, run: iconv -f UTF-16 -t UTF-8")


def _not_utf8(name: Any, place: int) -> DataError:
    return DataError(f"{name}: not UTF-8 at byte {place}, run: iconv -f ENCODING -t UTF-8 (ENCODING: LATIN1, ...)")
