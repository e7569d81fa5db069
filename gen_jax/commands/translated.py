"""`gen-jax sample --translate=a2b --images=FOLDER`: a folder of pictures through a model that translates images.

Each picture is cropped and resized as in training and becomes one PNG of its own name, in a folder named after the run,
the step and the direction; a grid beside it has each picture over its translation.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gen_jax.commands import outputs
from gen_jax.data import Info, pixels
from gen_jax.data.files import File, list_folder
from gen_jax.data.source import Source
from gen_jax.data.sources.image_folder import KIND
from gen_jax.errors import ConfigError, DataError
from gen_jax.io import paths
from gen_jax.models.base import TranslatesImages
from gen_jax.runs import grids, plots
from gen_jax.runs.run_dir import write_atomic
from gen_jax.training.program import Program
from gen_jax.training.trained import TrainedRun

SHOWN = 64  # pictures in the grid
FLAGS = ("workdir", "step", "accept_data", "translate", "images", "out", "overwrite")  # that a translation reads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models that translate images")
    group.add_argument("--translate", choices=("a2b", "b2a"), help="from which of the two sets to which")
    group.add_argument(
        "--images", type=paths.flag, help="a folder of pictures, which are translated; those in sub-folders are not"
    )


def check(args: argparse.Namespace, program: Program, options: Mapping[str, Any]) -> None:
    """Raises ConfigError if the flags, and those of the sampling options, do not fit each other or the model."""
    name, able = program.experiment.model_name, isinstance(program.model, TranslatesImages)
    if args.images and not args.translate:
        raise ConfigError("--images: expected --translate=a2b or b2a beside it")
    if args.translate and not able:
        raise ConfigError(f"--translate: expected a model that translates images; {name} does not")
    if able and not (args.translate and args.images):
        raise ConfigError(f"--translate: expected a2b or b2a, and --images=FOLDER, of the model {name}")
    for flag, value in {**vars(args), **options}.items() if args.translate else ():
        if flag not in FLAGS and value not in (None, False, []):
            raise ConfigError(f"--{flag}: expected none beside --translate")
    if args.translate and len({*program.dataset.info.shape[:2]}) > 1:
        raise ConfigError(f"--images: pictures are read as squares, the model's are {program.dataset.info.shape}")


def run(args: argparse.Namespace, trained: TrainedRun) -> None:
    """Writes the translations and prints where the grid is.

    Raises:
      ConfigError: no pictures, or two of one name.
      DataError: a file is no picture.
    """
    files = _files(args.images)
    program, step, state = trained.program, trained.step, trained.state
    folder = outputs.folder(args, trained.run_dir)
    translate = jax.jit(lambda state, images: program.model.translate_images(state, images, args.translate))
    above, below = [], []
    background = _background(program.experiment.data, args.translate[0])
    for images in _batches(files, program.dataset.info, program.experiment.eval_batch_size, background):
        above.append(images)
        below.append(jax.device_get(translate(state, images)))
    before, after = (np.concatenate(parts)[: len(files)] for parts in (above, below))
    name = f"translate_{trained.run_dir.path.name}_step{step}_{args.translate}"
    stem = outputs.free(folder, name, overwrite=args.overwrite)
    (folder / stem).mkdir(exist_ok=True)
    for file, image in zip(files, after, strict=True):
        write_atomic(folder / stem / f"{file.path.stem}.png", plots.png(image))
    labels = grids.Labels(
        f"Translations of {trained.run_dir.path.name} at step {step}", (args.translate[0], f"to {args.translate[-1]}")
    )
    write_atomic(folder / f"{stem}.png", plots.png(grids.pairs(before[:SHOWN], after[:SHOWN], labels=labels)))
    print(f"{folder / stem}/\n{folder / stem}.png")


def _files(folder: str) -> list[File]:
    """The pictures in a folder. Raises ConfigError if there are none, or two whose PNG would be the same."""
    try:
        listing = list_folder(Path(folder).expanduser(), KIND, named="nothing", deep=False)
    except DataError as error:
        raise ConfigError(f"--images: {str(error).removeprefix('config.data.path: ')}") from None
    listing.say()
    files = listing.files["train"]
    stems = [file.path.stem for file in files]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise ConfigError(f"--images: expected one picture of each name, found several called {twice!r}")
    return files


def _batches(files: list[File], info: Info, size: int, background: int) -> Iterator[np.ndarray]:
    """uint8 [B, H, W, C] as in training, B at most `size`; the last batch is filled with its last picture."""
    side, _, channels = info.shape
    size = min(size, len(files))
    for start in range(0, len(files), size):
        part = files[start : start + size]
        images = [pixels.read(file.path, side, channels, background) for file in part]
        yield np.stack(images + images[-1:] * (size - len(images)))


def _background(source: Source, of: str) -> int:
    """The grey level that transparent pixels of the set `of`, a or b, were laid on in training."""
    return getattr(getattr(source, of, None), "background", pixels.WHITE)
