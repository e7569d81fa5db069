"""Damaged files of every kind that is read: each reads, or ends in the project's own line, and soon."""

import contextlib
import gzip
import os
import random
import shutil
import signal
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gpt2_reference import random_tensors
from PIL import Image
from safetensors.numpy import save_file

from gen_jax import data
from gen_jax.data import streaming
from gen_jax.data.sources import text_file
from gen_jax.errors import RunError
from gen_jax.training import gpt2

DAMAGES, SECONDS = 60, 5
LIES = [
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    bytes(4),
    b"\x7f\xff\xff\xff",
    b"[[[[",
    b"\n{\xc3\x28",
]
HEAD = 128  # bytes that most formats describe themselves in
ROOT, SHAKESPEARE = Path(__file__).parent.parent, "tiny_shakespeare/1.0.0"
TEXT = "".join(f"line {i} äß\n" for i in range(60))


def damaged(whole: bytes, random_: random.Random) -> bytes:
    """One to three of: flipped bits, a cut, zeros put in, a lie in a field, two fields swapped, a piece repeated."""
    content = bytearray(whole)
    for _ in range(random_.randint(1, 3)):
        # half of them where headers and tables are: at both ends
        end = random_.choice([min(HEAD, len(content)), len(content)])
        place = random_.randrange(max(end, 1))
        place = random_.choice([place, place, max(len(content) - 1 - place, 0)])
        match random_.randrange(6):
            case 0:
                for i in range(place, min(place + random_.randint(1, 8), len(content))):
                    content[i] ^= 1 << random_.randrange(8)
            case 1:
                del content[place:]
            case 2:
                content[place:place] = bytes(random_.choice([1, 4, 512]))
            case 3:
                content[place : place + 4] = random_.choice(LIES)
            case 4:
                size = random_.choice([1, 2, 4, 8])
                other = random_.randrange(max(end, 1))
                here, there = content[place : place + size], content[other : other + size]
                content[place : place + size], content[other : other + size] = there, here
            case 5:
                content[place:place] = content[place : place + 64] * random_.randint(1, 20)
    return bytes(content)


def of(**section: object) -> Callable[[Path], object]:
    """Reads the source of a section, its path below the folder."""

    def read(folder: Path) -> object:
        paths = {key: str(folder / str(section[key])) for key in ("path", "tokenizer_file") if key in section}
        return data.load(data.parse({"validation": 0, "test": 0} | section | paths), 0)

    return read


def picture(folder: Path, name: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    (folder / "photos").mkdir()
    Image.fromarray(values).save(folder / "photos" / name)


def sound(folder: Path, subtype: str = "PCM_16") -> Path:
    (folder / "wavs").mkdir()
    values = np.random.default_rng(0).normal(size=(300, 2)) / 9
    soundfile.write(folder / "wavs/a.wav", values, 8000, subtype=subtype)
    return folder / "wavs/a.wav"


def pairs(folder: Path) -> None:
    for language in ("en", "de"):
        (folder / f"train.{language}.gz").write_bytes(gzip.compress(TEXT.encode()))


def tokens(folder: Path) -> None:
    (folder / "a.txt").write_text(TEXT)
    cfg = text_file.Config(path=str(folder / "a.txt"), tokenizer="bpe", vocab_size=270)
    streaming.tokenise(cfg, folder / "tokens", lambda *_: None)


def zipped(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.write(sound(folder), "one/a.wav")
        out.write(folder / "wavs/a.wav", "one/b.wav")


def tarred(folder: Path, name: str) -> None:
    with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w", format=tarfile.PAX_FORMAT) as out:
        out.add(sound(folder), "one/ä.wav")
        out.add(folder / "wavs/a.wav", "one/b.wav")


def arrays(folder: Path, packed: bool) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 4, 4), np.uint8)
    save = np.savez_compressed if packed else np.savez
    save(folder / "a.npz", image=values, label=np.arange(20) % 3)


def text(folder: Path) -> None:
    (folder / "a.txt").write_text("\ufeff" + TEXT)


def weights(folder: Path) -> None:
    save_file(random_tensors(1, 8, 11, 6), folder / "a.safetensors")


def read_tokens(folder: Path) -> object:
    return of(source="token_file", path="tokens")(folder)


def prepared(name: str, file: str) -> tuple[Callable[[Path], object], str, Callable[[Path], object]]:
    """A set of TFDS, one of whose files is damaged."""
    place = f"tfds/{name}"

    def copy(folder: Path) -> None:
        shared = Path(os.environ.get("GEN_JAX_TEST_DATA", ROOT.parent / "shared" / "data"))
        if not (shared / place).is_dir():
            pytest.skip(f"no {name} in {shared}")
        shutil.copytree(shared / place, folder / place, copy_function=shutil.copyfile)

    return (
        copy,
        f"{place}/{file}",
        lambda f: of(source="tfds", name=name.partition("/")[0], data_dir=str(f / "tfds"))(f),
    )


KINDS: dict[str, tuple[Callable[[Path], object], str, Callable[[Path], object]]] = {
    "png": (lambda f: picture(f, "a.png"), "photos/a.png", of(source="image_folder", path="photos", size=8)),
    "jpg": (lambda f: picture(f, "a.jpg"), "photos/a.jpg", of(source="image_folder", path="photos", size=8)),
    "gif": (lambda f: picture(f, "a.gif"), "photos/a.gif", of(source="image_folder", path="photos", size=8)),
    "tiff": (lambda f: picture(f, "a.tiff"), "photos/a.tiff", of(source="image_folder", path="photos", size=8)),
    "webp": (lambda f: picture(f, "a.webp"), "photos/a.webp", of(source="image_folder", path="photos", size=8)),
    "ppm": (lambda f: picture(f, "a.ppm"), "photos/a.ppm", of(source="image_folder", path="photos", size=8)),
    "wav": (sound, "wavs/a.wav", of(source="wav_folder", path="wavs", length=64)),
    "float wav": (lambda f: sound(f, "FLOAT"), "wavs/a.wav", of(source="wav_folder", path="wavs", length=64)),
    "npz": (lambda f: arrays(f, packed=False), "a.npz", of(source="npz", path="a.npz")),
    "packed npz": (lambda f: arrays(f, packed=True), "a.npz", of(source="npz", path="a.npz")),
    "npy": (tokens, "tokens/train.npy", read_tokens),
    "tokens.json": (tokens, "tokens/tokens.json", read_tokens),
    "tokenizer.json": (tokens, "tokens/tokenizer.json", read_tokens),
    "txt": (text, "a.txt", of(source="text_file", path="a.txt", context=4)),
    "lines": (text, "a.txt", of(source="text_file", path="a.txt", documents="lines")),
    "gz": (pairs, "train.en.gz", of(source="pairs", path=".", vocab_size=260)),
    "zip": (zipped, "a.zip", of(source="wav_folder", path="a.zip", length=64)),
    "tar": (lambda f: tarred(f, "a.tar"), "a.tar", of(source="wav_folder", path="a.tar", length=64)),
    "tar.gz": (lambda f: tarred(f, "a.tar.gz"), "a.tar.gz", of(source="wav_folder", path="a.tar.gz", length=64)),
    "array_record": prepared(SHAKESPEARE, "tiny_shakespeare-test.array_record-00000-of-00001"),
    "dataset_info.json": prepared(SHAKESPEARE, "dataset_info.json"),
    "features.json": prepared(SHAKESPEARE, "features.json"),
    "inside of gz": (pairs, "train.en.gz", of(source="pairs", path=".", vocab_size=260)),
    "inside of tar.gz": (
        lambda f: tarred(f, "a.tar.gz"),
        "a.tar.gz",
        of(source="wav_folder", path="a.tar.gz", length=64),
    ),
    "safetensors": (weights, "a.safetensors", lambda f: gpt2.read(f / "a.safetensors")),
}
INSIDE = {"inside of gz", "inside of tar.gz"}  # what is packed is damaged, and packed again


@contextlib.contextmanager
def soon():
    """Raises TimeoutError where the body takes longer than SECONDS."""

    def late(*_: object) -> None:
        raise TimeoutError

    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_reads_or_ends_in_one_line(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path / "cache"))
    make, name, read = KINDS[kind]
    make(tmp_path)
    unpack, pack = (gzip.decompress, gzip.compress) if kind in INSIDE else (bytes, bytes)
    whole = unpack((tmp_path / name).read_bytes())
    read(tmp_path)
    random_, refused = random.Random(kind), 0
    for i in range(DAMAGES):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        (tmp_path / name).write_bytes(pack(damaged(whole, random_)))
        try:
            with soon():
                read(tmp_path)
        except RunError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2_000, i
            assert error.code in (2, 4, 5), i
    assert refused > DAMAGES // 6  # the damage is seen
