"""Text files: what is text, and what else a file that should be text may hold."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_jax.data import utf8
from gen_jax.data.sources import pairs
from gen_jax.errors import DataError

BOM = b"\xef\xbb\xbf"


@pytest.fixture
def chunks(monkeypatch):
    """Files are read so many bytes at a time."""
    return lambda size: monkeypatch.setattr(utf8, "CHUNK", size)


def read_both_ways(content: bytes) -> str:
    whole = utf8.decode(content, "a.txt")
    assert "".join(utf8.decoded(io.BytesIO(content), "a.txt")) == whole
    return whole


@given(st.text(), st.integers(1, 9), st.booleans())
def test_a_mark_is_no_character_and_the_rest_is_as_it_is(text, size, marked):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utf8, "CHUNK", size)
        patch.setattr(utf8, "_refuse_wide", lambda head, name: None)  # random text may look like UTF-16
        expected = text if marked else text.removeprefix("\ufeff")
        assert read_both_ways(BOM * marked + text.encode()) == expected


def test_a_mark_inside_is_a_character():
    assert read_both_ways(BOM + "a\ufeffb\r\n\rc\n".encode()) == "a\ufeffb\r\n\rc\n"
    assert read_both_ways(BOM) == read_both_ways(b"") == ""


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"abc\xffabc", 3),
        (BOM + b"abc\xff", 6),
        ("Füße".encode("latin-1") + b"...", 1),
        ("ab你".encode()[:-1], 2),  # cut
        (b"abcd\xed\xa0\x80", 4),  # a lone surrogate
        (b"\xf4\x90\x80\x80", 0),  # beyond Unicode
    ],
)
def test_the_first_wrong_byte_is_named(chunks, size, content, place):
    chunks(size)
    for read in (lambda: utf8.decode(content, "a.txt"), lambda: list(utf8.decoded(io.BytesIO(content), "a.txt"))):
        with pytest.raises(DataError, match=rf"^a\.txt: not UTF-8 at byte {place}, run: iconv"):
            read()


@pytest.mark.parametrize("text", ["hello\n", "Füße, 1 2 3\r\n", "привет, мир\n", "γειά σου", "שלום"])
@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_two_bytes_a_character_are_known_without_a_mark(text, coding):
    content = (text * 50).encode(coding)
    for read in (lambda: utf8.decode(content, "a.txt"), lambda: list(utf8.decoded(io.BytesIO(content), "a.txt"))):
        with pytest.raises(DataError, match=r"not UTF-8.*UTF-16") as error:
            read()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"a\x00b\x1b[31m" * 100, b"\x00" * 99, b"a\tb\n" * 9, b" \n\t ", b"abc\x00" * 9])
def test_control_characters_are_text(content):
    assert read_both_ways(content).encode() == content


def test_lines():
    assert utf8.lines("a\n\nb\r\nc\rd\u2028\x0b\x85e\n") == ["a", "", "b", "c", "d\u2028\x0b\x85e"]
    assert utf8.lines("") == [] and utf8.lines("\r\n") == [""] and utf8.lines("a") == ["a"]


def test_pairs_have_no_mark(tmp_path):
    (tmp_path / "a").write_bytes(BOM + b"one\r\ntwo")
    assert pairs.read_lines(tmp_path / "a") == ["one", "two"]
