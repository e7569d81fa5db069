"""`gen-jax data list | show NAME | prepare NAME | tokenize --path=TEXT --out=DIR`."""

import argparse
import contextlib
from pathlib import Path

import numpy as np
from etils import epath

from gen_jax import data
from gen_jax.data import streaming, tools
from gen_jax.data.sources import text_file
from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.runs import grids, plots
from gen_jax.runs.progress import Progress
from gen_jax.runs.run_dir import write_atomic
from gen_jax.settings import validate

SERIES = 5  # vectors that are drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="list|show|prepare|tokenize", required=True)
    listing = actions.add_parser("list", help="the sources, and the TFDS sets that are prepared")
    show = actions.add_parser("show", help="what a set holds; writes a grid of images")
    show.add_argument("name", type=paths.flag, help="a source, a TFDS set, or a path to a file or folder")
    show.add_argument("--split", default="train")
    show.add_argument("--n", type=int, default=64, help="images in the grid, or records of text")
    show.add_argument("--out", type=paths.flag, help="the PNG; default: ./NAME_SPLIT.png")
    show.add_argument("--overwrite", action="store_true", help="replace a file of the same name")
    prepare = actions.add_parser("prepare", help="download and prepare a TFDS set (needs the extra [prepare])")
    prepare.add_argument("name", help="a TFDS set")
    prepare.add_argument(
        "--manual_dir", type=paths.flag, help="a folder with the original files, for a machine offline"
    )
    help_line = "text to token files that are memory-mapped (the source token_file)"
    tokenize = actions.add_parser("tokenize", help=help_line, allow_abbrev=False)
    tokenize.add_argument(
        "--path", type=paths.flag, required=True, help="a text file (UTF-8), or a folder of them, each one document"
    )
    tokenize.add_argument("--out", type=paths.flag, required=True, help="the folder for train.npy, ..., tokenizer.json")
    tokenize.add_argument(
        "--tokenizer", type=paths.flag, default="byte", help="byte (default), char, bpe, or a saved tokeniser's file"
    )
    tokenize.add_argument("--vocab_size", type=int, default=0, help="of bpe")
    tokenize.add_argument("--documents", default="joined", help="joined (default) or packed")
    tokenize.add_argument("--pattern", default="*.txt", help="of the files in a folder")
    tokenize.add_argument(
        "--validation", type=float, default=0.1, help="share of the documents (of one file: of its end)"
    )
    tokenize.add_argument("--test", type=float, default=0.1, help="share, as --validation")
    tokenize.add_argument("--split_seed", type=int, default=0, help="picks the documents")
    tokenize.add_argument("--overwrite", action="store_true", help="replace what is in the folder")
    for action in (listing, show, prepare):
        action.add_argument("--data_dir", type=paths.flag, help="where TFDS keeps its sets; default: TFDS's own")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    {"list": _list, "show": _show, "prepare": _prepare, "tokenize": _tokenize}[args.action](args)


def _list(args: argparse.Namespace) -> None:
    print("sources (config.data.source):")
    for name, line in data.list_sources().items():
        print(f"  {name:13} {line}")
    prepared = tools.list_prepared(args.data_dir or "")
    print("prepared TFDS sets: " + (", ".join(prepared) or "none; gen-jax data prepare NAME"))


def _show(args: argparse.Namespace) -> None:
    if args.n < 1:
        raise ConfigError(f"--n: expected at least 1, got {args.n}")
    out = epath.Path(args.out or f"{args.name.strip('./').replace('/', '_')}_{args.split}.png")
    dataset, found = tools.look(tools.resolve(args.name, args.data_dir or ""), args.split, args.n)
    for key, value in tools.describe(dataset).items():
        print(f"{key}: {value}")
    if isinstance(found, str):
        print(found)
        return
    if out.exists() and not args.overwrite:
        raise ConfigError(f"--out: {out} exists; pass --overwrite to replace it, or another --out")
    write_atomic(out, plots.png(_drawn(*found, f"{Path(args.name).name}, {args.split}")))
    print(f"picture: {out}")


def _drawn(shown: np.ndarray, classes: list[str], title: str) -> np.ndarray:
    """Images [N, H, W, C] above their classes, points [N, 2] in the plane, or the first of the vectors [N, D]."""
    if shown.ndim == 4:
        return grids.grid(shown, grids.Labels(title, captions=classes))
    if shown.shape[1] == 2:
        return plots.scatter(shown, title=title, axes=("value 0", "value 1"), equal=True)
    return plots.panels({f"the first {len(shown[:SERIES])}": shown[:SERIES]}, title=title, axes=("step", "value"))


def _prepare(args: argparse.Namespace) -> None:
    print(tools.prepare(args.name, args.data_dir or "", args.manual_dir or ""))


def _tokenize(args: argparse.Namespace) -> None:
    if args.documents not in ("joined", "packed"):
        raise ConfigError(f"--documents: expected 'joined' or 'packed', got {args.documents!r}")
    names = ("path", "vocab_size", "documents", "pattern", "validation", "test", "split_seed")
    section = {name: getattr(args, name) for name in names} | {"source": "text_file"}
    if args.tokenizer in ("byte", "char", "bpe"):
        section["tokenizer"] = args.tokenizer
    elif Path(args.tokenizer).expanduser().is_file():
        section["tokenizer_file"] = args.tokenizer
    else:
        raise ConfigError(f"--tokenizer: expected byte, char, bpe or a saved tokeniser's file, got {args.tokenizer!r}")
    try:
        cfg = validate(text_file.Config, section, "config.data")
    except ConfigError as error:
        raise ConfigError(str(error).replace("config.data.", "--")) from None
    with contextlib.ExitStack() as stack:
        shown: list[Progress] = []

        def report(done: int, total: int, note: str) -> None:
            if not shown:
                shown.append(stack.enter_context(Progress("tokenize", total, unit="byte")))
            shown[0].update(done, note)

        sizes = streaming.tokenise(cfg, Path(args.out).expanduser(), report, args.overwrite)
    for split, size in sizes.items():
        print(f"{split}: {size:,} tokens")
    print(f"{args.out}: use it as config.data = dict(source='token_file', path='{args.out}', context=...)")
