"""How a number was measured, written into its tag: `test/fid@features=classifier-1a2b3c4d,resize=none,...`.

Two numbers can be compared if their names and everything after `@` are the same.
"""

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np

MARK = "@"
HEADS = {"validation": "val", "train": "train_eval"}  # train/ is what the steps themselves saw


def tag(name: str, **facts: object) -> str:
    """`name` with the facts that its value depends on, if there are any. Facts hold no comma."""
    said = ",".join(f"{key}={value}" for key, value in facts.items())
    return f"{name}{MARK}{said}" if facts else name


def head(split: str) -> str:
    """The start of a split's tags, before the `/`."""
    return HEADS.get(split, split)


def name_of(tag: str) -> str:
    """The part before the facts, or the whole tag if there are none."""
    return tag.partition(MARK)[0]


def facts_of(tag: str) -> dict[str, str]:
    pairs = (fact.partition("=") for fact in tag.partition(MARK)[2].split(",") if fact)
    return {key: value for key, _, value in pairs}


def find(name: str, tags: list[str]) -> list[str]:
    """The tags that `name` can mean: a whole tag, or the part before its facts."""
    return [one for one in tags if name in (one, name_of(one))]


def difference(tag: str, other: str) -> str:
    """The facts in which two tags differ, as `key one, other`. "" if their numbers can be compared."""
    if name_of(tag) != name_of(other):
        return f"name {name_of(tag)}, {name_of(other)}"
    one, two = facts_of(tag), facts_of(other)
    keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
    return "; ".join(f"{key} {one.get(key, 'absent')}, {two.get(key, 'absent')}" for key in keys)


@dataclasses.dataclass(frozen=True)
class Real:
    """The real images that a number depends on.

    Attributes:
      digest: the first 12 digits of the sha256 of the pixels, whatever the batches were.
      label: int32 [N].
    """

    split: str
    digest: str
    label: np.ndarray

    @property
    def name(self) -> str:
        """The fact that names the images."""
        return f"{self.split}-{self.digest}"

    def facts(self, n_fake: int) -> dict[str, object]:
        """The facts of a number that compares samples with these images. n_fake: number of samples."""
        return {"n_real": len(self.label), "n_fake": n_fake, "split": self.split, "data": self.digest}


def real(split: str, found: Iterable[tuple[np.ndarray, np.ndarray]]) -> Real:
    """Collects the images of `split` that were read."""
    pixels, shape, labels = hashlib.sha256(), (), []
    for image, label in found:
        pixels.update(image.tobytes())
        shape = image.shape[1:]
        labels.append(label)
    pixels.update(f"{shape}".encode())
    return Real(split, pixels.hexdigest()[:12], np.concatenate(labels))
