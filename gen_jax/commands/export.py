"""`gen-jax export --workdir=D --out=F [--format=safetensors|stablehlo|huggingface]`: a model for other programs.

`safetensors`: the parameters by their paths. `stablehlo`: sampling or log-likelihood as one compiled function, which
runs with jax alone. `huggingface`: a Transformer of GPT-2's shape as `transformers` reads it. Each has a model card.
"""

import argparse

from etils import epath

from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.io.gcs import absolute, is_remote
from gen_jax.training import export, same_data
from gen_jax.training.trained import TrainedRun

FILES = {
    "safetensors": lambda args: (export.PARAMETERS,),
    "stablehlo": lambda args: (export.PARAMETERS, f"{args.function or 'sample'}.stablehlo"),
    "huggingface": lambda args: (export.PARAMETERS, "config.json"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=paths.flag, required=True, help="the run directory")
    parser.add_argument("--out", type=paths.flag, required=True, help="a folder for the files")
    parser.add_argument("--format", choices=FILES, default="safetensors")
    parser.add_argument("--step", default="latest", help="latest (default), best, or a number")
    parser.add_argument("--live", action="store_true", help="the parameters themselves, not their averages")
    parser.add_argument("--function", choices=("sample", "log_prob"), help="of stablehlo; default: sample")
    parser.add_argument("--n", type=int, help="of stablehlo: samples or examples of a call; default: 16")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names")
    same_data.add_argument(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    for name in ("function", "n"):
        if args.format != "stablehlo" and getattr(args, name) is not None:
            raise ConfigError(f"--{name}: expected none beside --format={args.format}")
    if args.n is not None and args.n < 1:
        raise ConfigError(f"--n: expected at least 1, got {args.n}")
    folder = _folder(args)
    run = TrainedRun(args.workdir, args.step, accept_data=args.accept_data)
    if args.format == "safetensors":
        written = export.write_parameters(run, folder, not args.live)
    elif args.format == "huggingface":
        written = export.write_huggingface(run, folder, not args.live)
    else:
        written = export.write_compiled(run, folder, not args.live, args.function or "sample", args.n or 16)
    print("\n".join(paths.shortest(folder / name) for name in written))


def _folder(args: argparse.Namespace) -> epath.Path:
    """Raises ConfigError if it cannot be made, or has one of the files."""
    if is_remote(args.out):
        raise ConfigError(f"--out: expected a local folder, got {args.out}")
    folder = absolute(args.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: expected a folder that can be made, got {folder}: {error.strerror}") from None
    found = [name for name in (*FILES[args.format](args), export.CARD) if (folder / name).exists()]
    if found and not args.overwrite:
        raise ConfigError(f"--out: {folder / found[0]} exists; pass --overwrite to replace it, or another folder")
    return folder
