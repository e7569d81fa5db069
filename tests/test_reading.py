"""What is no file, or far more than it seems, ends in one line: nothing waits for a pipe, nothing fills the memory."""

import gzip
import io
import json
import os
import socket
import tarfile
import zipfile

import numpy as np
import pytest

from gen_jax import data
from gen_jax.data import archives, bounds, reading, streaming
from gen_jax.data.files import Kind
from gen_jax.data.sources import text_file
from gen_jax.errors import DataError

TEXTS = Kind("texts", (".txt",))


def odd(path, kind):
    """Something of this name that is no file."""
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))


KINDS = ["a pipe", "a device", "a folder", "a socket"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [reading.contents, reading.opened, reading.unpacked, reading.json_of])
def test_only_files_are_opened(tmp_path, monkeypatch, kind, read):
    monkeypatch.chdir(tmp_path)
    odd(tmp_path / "odd", kind)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "odd")
    assert str(caught.value) == f"{tmp_path}/odd: expected a file, found {kind}"


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a socket"])
@pytest.mark.parametrize(
    ("section", "name"),
    [
        (dict(source="text_file", path="odd"), "odd"),
        (dict(source="npz", path="odd"), "odd"),
        (dict(source="image_folder", path="odd"), "odd"),
        (dict(source="wav_folder", path="odd"), "odd"),
        (dict(source="wav_folder", path="odd.zip"), "odd.zip"),
        (dict(source="pairs", path="odd"), "odd"),
        (dict(source="token_file", path="folder"), "folder/tokens.json"),
        (dict(source="token_file", path="tokens"), "tokens/train.npy"),
        (dict(source="text_file", path="text", tokenizer_file="odd"), "odd"),
    ],
)
def test_no_source_waits_for_what_is_no_file(tmp_path, monkeypatch, kind, section, name):
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "tokens"):
        (tmp_path / folder).mkdir()
    (tmp_path / "text").write_text("words")
    facts = {"documents": "joined", "vocab_size": 256, "sizes": {"train": 3}}
    (tmp_path / "tokens/tokens.json").write_text(json.dumps(facts))
    odd(tmp_path / name, kind)
    with pytest.raises(DataError) as caught:
        data.load(data.parse(section), 0)
    assert "\n" not in str(caught.value) and name.partition("/")[0] in str(caught.value)


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_a_look_at_what_is_no_file_says_so(tmp_path, kind):
    odd(tmp_path / "odd", kind)
    with pytest.raises(DataError, match=f"odd: expected a file, found {kind}$"):
        data.look(data.resolve(str(tmp_path / "odd")))


def test_a_file_larger_than_the_memory_is_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    os.truncate(tmp_path / "a.txt", 2**43)  # takes no room on the disk
    with pytest.raises(
        DataError, match=r"a\.txt: a file of 8,796,093,022,208 bytes, but only [\d,]+ bytes of memory are free"
    ):
        text_file.read(tmp_path / "a.txt")


@pytest.mark.parametrize("documents", ["joined", "packed"])
def test_a_file_of_a_mark_alone_is_an_empty_one(tmp_path, documents):
    sets = []
    for name, empty in (("mark", b"\xef\xbb\xbf"), ("empty", b"")):
        folder = tmp_path / name
        folder.mkdir()
        for i in range(6):
            (folder / f"{i}.txt").write_text(f"<{i}>")
        (folder / "3a.txt").write_bytes(empty)
        cfg = data.parse(dict(source="text_file", path=str(folder), context=2, documents=documents))
        streaming.tokenise(cfg, tmp_path / f"{name}_tokens", lambda *_: None)
        sets += [data.load(cfg, 0), data.load(data.parse(dict(source="token_file", path=f"{folder}_tokens")), 0)]
    assert sets[0].sizes == ({"train": 16, "validation": 4, "test": 4} if documents == "packed" else sets[2].sizes)
    for other in sets[1:]:
        for split, tokens in sets[0].tokens.items():
            np.testing.assert_array_equal(other.tokens[split], tokens)
    (tmp_path / "alone.txt").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(DataError, match=r"no text for train in .*alone\.txt"):
        text_file.files(data.parse(dict(source="text_file", path=str(tmp_path / "alone.txt"))))


def tar(path, *members, mode="w", form=tarfile.GNU_FORMAT):
    """Members (name, bytes or the target of a link)."""
    with tarfile.open(path, mode, format=form) as out:
        for name, content in members:
            one = tarfile.TarInfo(name)
            if isinstance(content, str):
                one.type, one.linkname = tarfile.SYMTYPE, content
                out.addfile(one)
            else:
                one.size = len(content)
                out.addfile(one, io.BytesIO(content))
    return path


def test_nothing_outside_of_an_archive_is_read(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    names = ["../secret.txt", f"{tmp_path}/secret.txt", "a/../../secret.txt", "good.txt", "inner.zip"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        for name in names:
            out.writestr(name, "inside")
    (tmp_path / "other.txt").write_text("secret")
    links = [("up.txt", "../other.txt"), ("root.txt", f"{tmp_path}/other.txt")]
    packed = tar(tmp_path / "a.tar", *((name, b"inside") for name in names), *links)
    for path in (tmp_path / "a.zip", packed):
        with archives.opened(path, TEXTS) as listing:
            for file in listing.files["train"]:
                assert file.contents() == b"inside"
            assert "good.txt" in [file.name for file in listing.files["train"]]
            assert listing.skipped["of another kind"] == ["inner.zip"]
            assert sorted(listing.skipped.get("links to nothing", [])) == (
                ["root.txt", "up.txt"] if path is packed else []
            )


def lying(size, kind=tarfile.REGTYPE):
    """The header of a member that claims `size` bytes."""
    one = tarfile.TarInfo("a.txt")
    one.size, one.type = size, kind
    return one.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        (2**60, r"unpacks to 1,152,921,504,606,8\d\d,\d\d\d, more than 100 times as many"),
        (-(2**40), r"cannot be read: a header says a negative size"),
        (10**6, r"cannot be read: unexpected end of data|cannot be read: .*[Hh]eader"),
    ],
)
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_header_of_a_tar_that_lies_is_refused(tmp_path, kind, size, message, suffix):
    content = lying(size, kind) + bytes(2048)
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(content) if suffix == ".tar.gz" else content)
    with pytest.raises(DataError, match=message) as caught, archives.opened(tmp_path / f"a{suffix}", TEXTS):
        pass
    assert "\n" not in str(caught.value)


def test_a_bomb_in_an_archive_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    zeros = bytes(3 * 10**6)
    tar(tmp_path / "a.tar.gz", ("a.txt", zeros), mode="w:gz")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.txt", zeros)
    for name in ("a.tar.gz", "a.zip"):
        with archives.opened(tmp_path / name, TEXTS) as listing:
            assert listing.files["train"][0].contents() == zeros
    monkeypatch.setattr(bounds, "FLOOR", 10**5)
    for name in ("a.tar.gz", "a.zip"):
        with (
            pytest.raises(DataError, match=r"that unpacks to 3,00\d,\d\d\d, more"),
            archives.opened(tmp_path / name, TEXTS),
        ):
            pass


def test_an_archive_of_countless_members_is_refused(tmp_path, monkeypatch):
    path = tar(tmp_path / "a.tar.gz", *((f"{i}.txt", b"") for i in range(400)), mode="w:gz")
    with archives.opened(path, TEXTS) as listing:
        assert len(listing.files["train"]) == 400
    monkeypatch.setattr(bounds, "MEMBERS", 10)
    monkeypatch.setattr(bounds, "MEMBER", 100)
    most = max(10, path.stat().st_size // 100)
    with pytest.raises(DataError, match=rf"bytes with more than {most} members"), archives.opened(path, TEXTS):
        pass


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("[" * 10**5, r"tokens\.json: not readable as JSON"),
        ("[]", r"tokens\.json: : Input should be"),
        ('{"documents": "lines", "vocab_size": 256, "sizes": {"train": 3}}', r"documents: Input should be 'joined'"),
        ('{"documents": "joined", "vocab_size": "256", "sizes": {"train": 3}}', r"vocab_size"),
        ('{"documents": "joined", "vocab_size": 256, "sizes": {"test": 3}}', r"sizes: .*expected train in it"),
        ('{"documents": "joined", "vocab_size": 256, "sizes": 3}', r"sizes: Input should be"),
    ],
)
def test_facts_of_tokens_that_are_wrong_are_named(tmp_path, facts, message):
    (tmp_path / "tokens.json").write_text(facts)
    with pytest.raises(DataError, match=message) as caught:
        data.load(data.parse(dict(source="token_file", path=str(tmp_path))), 0)
    assert "\n" not in str(caught.value) and "gen-jax data tokenize" in str(caught.value)


@pytest.mark.parametrize(
    "shape", ["(2**60,)", "(1152921504606846976, 1152921504606846976)", "(" * 900, "(-5,)", "(10**9,)"]
)
def test_a_header_of_token_ids_that_lies_is_refused(tmp_path, shape):
    facts = {"documents": "joined", "vocab_size": 256, "sizes": {"train": 3}}
    (tmp_path / "tokens.json").write_text(json.dumps(facts))
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(3)
    for wrong in (content, content.replace(shape.encode(), b"(1000000000,)"), b"PK\x03\x04" + content, b""):
        (tmp_path / "train.npy").write_bytes(wrong)
        with pytest.raises(DataError, match=r"train\.npy: not an \.npy of ids: ") as caught:
            data.load(data.parse(dict(source="token_file", path=str(tmp_path))), 0)
        assert "\n" not in str(caught.value)
