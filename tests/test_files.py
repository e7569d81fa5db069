"""The lister of files: what is data, which splits there are, and what is said of the rest."""

import os
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from gen_jax import data
from gen_jax.data import archives, files
from gen_jax.data.files import Kind, list_folder
from gen_jax.errors import DataError

TEXTS = Kind("texts", (".txt",))


def write(root, *names):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return root


def names(listing):
    return {split: [file.name for file in found] for split, found in listing.files.items()}


def test_droppings_are_no_data_and_are_named(tmp_path):
    kept = ["a.txt", "b/c.TXT", "b/d.txt"]
    droppings = [".a.txt", ".ipynb_checkpoints/a.txt", "__MACOSX/a.txt", "b/._c.txt", ".DS_Store", "b/Thumbs.db"]
    listing = list_folder(write(tmp_path, *kept, *droppings, "@eaDir/a.txt", "notes.csv"), TEXTS)
    assert names(listing) == {"train": kept}
    assert listing.line() == (
        f"data: {tmp_path}: 3 texts; skipped: 7 hidden (.DS_Store, .a.txt, .ipynb_checkpoints, @eaDir, ...), "
        "1 of another kind (notes.csv)"
    )


def test_links_are_followed_and_cycles_end(tmp_path):
    write(tmp_path / "elsewhere", "x.txt", "deep/y.txt")
    root = write(tmp_path / "root", "a.txt", "b/c.txt")
    (root / "far").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "up").symlink_to(root)
    (root / "one.txt").symlink_to(tmp_path / "elsewhere" / "x.txt")
    (root / "lost.txt").symlink_to("/nowhere.txt")
    (root / "loop.txt").symlink_to(root / "loop.txt")
    os.mkfifo(root / "pipe.txt")
    listing = list_folder(root, TEXTS)
    assert names(listing)["train"] == ["a.txt", "b/c.txt", "far/deep/y.txt", "far/x.txt", "one.txt"]
    assert listing.skipped == {
        files.DANGLING: ["loop.txt", "lost.txt"],
        files.SPECIAL: ["pipe.txt"],
        files.CYCLE: ["b/up"],
    }


def test_any_name_is_shown_on_one_line(tmp_path):
    odd = [b"caf\xe9.txt", b"two\nlines.txt", "cafe\u0301.txt".encode()]
    for name in odd:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(name)
    listing = list_folder(tmp_path, TEXTS)
    assert sorted(names(listing)["train"]) == sorted(["caf\\xe9.txt", "two\\nlines.txt", "café.txt"])
    for file in listing.files["train"]:
        assert file.contents() in odd
        assert "\n" not in str(file) and str(file).encode()


@pytest.mark.parametrize("alias", ["val", "valid", "validation", "dev", "VAL", "Dev"])
@pytest.mark.parametrize("train", ["train", "Training"])
def test_folders_are_splits_beside_train(tmp_path, train, alias):
    root = write(tmp_path, f"{train}/a/1.txt", f"{alias}/a/2.txt", "TEST/b/3.txt", "extra/a/4.txt", "5.txt")
    listing = list_folder(root, TEXTS)
    assert names(listing) == {"train": ["a/1.txt"], "validation": ["a/2.txt"], "test": ["b/3.txt"]}
    assert listing.places == {"train": train, "validation": alias, "test": "TEST"}
    assert listing.skipped == {files.OUTSIDE: ["5.txt", "extra/a/4.txt"]}


@pytest.mark.parametrize(
    ("present", "found"),
    [
        (("train/1.txt",), {"train": ["1.txt"]}),
        (("train/a/1.txt", "other/2.txt"), {"train": ["a/1.txt"]}),
        (("train/1.txt", "bus/2.txt"), {"train": ["bus/2.txt", "train/1.txt"]}),  # a class of vehicles
        (("test/1.txt", "control/2.txt"), {"train": ["control/2.txt", "test/1.txt"]}),
        (("cat/train/1.txt", "cat/test/2.txt"), {"train": ["cat/1.txt"], "test": ["cat/2.txt"]}),
    ],
)
def test_what_a_folder_called_train_is(tmp_path, present, found):
    assert names(list_folder(write(tmp_path, *present), TEXTS)) == found


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (("train/1.txt", "val/2.txt", "Dev/3.txt"), "has Dev and val, expected one folder for validation"),
        (("val/1.txt", "test/2.txt"), "has test and val, expected train beside them"),
        (("train/1.txt", "val/2.heic"), r"no texts \(\.txt\) in .*/val; skipped: 1 of another kind \(val/2\.heic\)"),
        (("a.csv",), r"no texts \(\.txt\) in .*; skipped: 1 of another kind \(a\.csv\)"),
    ],
)
def test_what_cannot_be_sorted_is_refused(tmp_path, present, message):
    with pytest.raises(DataError, match=message):
        list_folder(write(tmp_path, *present), TEXTS)


@pytest.mark.parametrize(
    ("present", "found"),
    [
        (("train.txt", "Val.txt", "README.txt"), {"train": ["train.txt"], "validation": ["Val.txt"]}),
        (("tiny-train.txt", "tiny-valid.txt"), {"train": ["tiny-train.txt"], "validation": ["tiny-valid.txt"]}),
        (("to-train.txt", "to-test.txt", "a.txt"), {"train": ["a.txt", "to-test.txt", "to-train.txt"]}),
        (("train/1.txt", "test/train.txt"), {"train": ["1.txt"], "test": ["train.txt"]}),
    ],
)
def test_files_are_splits_where_a_source_has_such(tmp_path, present, found):
    root = write(tmp_path, *present)
    assert names(list_folder(root, TEXTS, named="files")) == found


def test_a_pattern_matches_the_end_of_a_name_in_any_case():
    kind = Kind("texts", pattern="sub/*.txt")
    assert "a/SUB/b.TXT" in kind and "sub/b.txt" in kind and "b.txt" not in kind and "sub/a/b.txt" not in kind
    assert "a/b.txt" in Kind("texts", pattern="[ab].txt") and "a/x.txt" not in Kind("texts", pattern="[ab]*.txt")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_an_archive_is_listed_as_its_folder(tmp_path, suffix):
    root = write(tmp_path / "root", "train/a/1.txt", "dev/b/2.txt", "__MACOSX/x.txt", "dev/b/._2.txt", "c.csv")
    path = tmp_path / f"all{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as out:
            for file in root.rglob("*"):
                out.write(file, file.relative_to(root))
    else:
        os.link(root / "train/a/1.txt", root / "train/a/6.txt")  # tar keeps the second as a link
        (root / "train/a/4.txt").symlink_to("../../dev/b/2.txt")
        (root / "train/a/5.txt").symlink_to("nowhere.txt")
        with tarfile.open(path, "w:gz" if suffix == ".tar.gz" else "w") as out:
            out.add(root, ".")
    here = list_folder(root, TEXTS)
    with archives.opened(path, TEXTS) as there:
        assert names(there) == names(here) and there.places == here.places
        assert {why: sorted(n) for why, n in there.skipped.items()} == {w: sorted(n) for w, n in here.skipped.items()}
        for split, found in there.files.items():
            for one, other in zip(found, here.files[split], strict=True):
                assert one.contents() == other.contents() and one.size == other.size


def test_every_source_of_folders_reads_splits_by_name(tmp_path, capsys):
    for split, n in (("Train", 6), ("dev", 3)):
        for i in range(n):
            write(tmp_path / "texts", f"{split}/{i}.TXT")
            (tmp_path / "pictures" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "pictures" / split / f"{i}.jfif", "jpeg")
    pictures = data.load(data.parse(dict(source="image_folder", path=str(tmp_path / "pictures"), test=0)), 0)
    assert pictures.sizes == {"train": 6, "validation": 3}
    assert "9 pictures (train 6 in Train, validation 3 in dev)" in capsys.readouterr().err
    texts = data.load(data.parse(dict(source="text_file", path=str(tmp_path / "texts"), test=0, context=2)), 0)
    assert texts.tokenizer.decode(texts.tokens["validation"]) == "\n\n".join(f"dev/{i}.TXT" for i in range(3))
    assert data.resolve(str(tmp_path / "pictures"))["source"] == "image_folder"
    assert data.resolve(str(tmp_path / "texts"))["source"] == "text_file"
