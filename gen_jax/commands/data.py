"""`gen-jax data list | show NAME | prepare NAME`."""

import argparse

from etils import epath

from gen_jax import data, pictures
from gen_jax.data import tools
from gen_jax.errors import ConfigError
from gen_jax.run_dir import write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="list|show|prepare", required=True)
    listing = actions.add_parser("list", help="the sources, and the TFDS sets that are prepared")
    show = actions.add_parser("show", help="what a set holds; writes a grid of images")
    show.add_argument("name", help="a source, a TFDS set, or a path to a file or folder")
    show.add_argument("--split", default="train")
    show.add_argument("--n", type=int, default=64, help="images in the grid")
    show.add_argument("--out", default="", help="the PNG; default: ./NAME_SPLIT.png")
    show.add_argument("--overwrite", action="store_true", help="replace a file of the same name")
    prepare = actions.add_parser("prepare", help="download and prepare a TFDS set (needs the extra [prepare])")
    prepare.add_argument("name", help="a TFDS set")
    prepare.add_argument("--manual_dir", default="", help="a folder with the original files, for a machine offline")
    for action in (listing, show, prepare):
        action.add_argument("--data_dir", default="", help="where TFDS keeps its sets; default: TFDS's own")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    {"list": _list, "show": _show, "prepare": _prepare}[args.action](args)


def _list(args: argparse.Namespace) -> None:
    print("sources (config.data.source):")
    for name, line in data.list_sources().items():
        print(f"  {name:13} {line}")
    prepared = tools.list_prepared(args.data_dir)
    print("prepared TFDS sets: " + (", ".join(prepared) or "none; gen-jax data prepare NAME"))


def _show(args: argparse.Namespace) -> None:
    if args.n < 1:
        raise ConfigError(f"--n: expected at least 1, got {args.n}")
    out = epath.Path(args.out or f"{args.name.strip('./').replace('/', '_')}_{args.split}.png")
    dataset, found = tools.look(tools.resolve(args.name, args.data_dir), args.split, args.n)
    for key, value in tools.describe(dataset).items():
        print(f"{key}: {value}")
    if isinstance(found, str):
        print(found)
        return
    if out.exists() and not args.overwrite:
        raise ConfigError(f"--out: {out} is there; pass --overwrite to replace it, or another --out")
    write_atomic(out, pictures.png(pictures.grid(found)))
    print(f"picture: {out}")


def _prepare(args: argparse.Namespace) -> None:
    print(tools.prepare(args.name, args.data_dir, args.manual_dir))
