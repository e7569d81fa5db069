"""`gen-jax export --workdir=D --out=F [--format=safetensors|stablehlo|huggingface]`: a model for other programs.

`safetensors`: the parameters by their paths. `stablehlo`: sampling or log-likelihood as one compiled function, which
runs with jax alone on the `--platforms`. `huggingface`: a Transformer of GPT-2's shape as `transformers` reads it. Each
has a model card. Of a run with `num_seeds`, `--seed` says which.
"""

import argparse

from etils import epath

from gen_jax.commands import outputs
from gen_jax.core.sampling import MOST_SAMPLES
from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.io.gcs import absolute, is_remote
from gen_jax.settings import require_between, shown
from gen_jax.training import export, same_data
from gen_jax.training.trained import TrainedRun, run_of_seed

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
    parser.add_argument("--seed", type=int, help="of a run with num_seeds: which of them")
    parser.add_argument("--live", action="store_true", help="the parameters themselves, not their averages")
    parser.add_argument("--function", choices=("sample", "log_prob"), help="of stablehlo; default: sample")
    parser.add_argument("--n", type=int, help="of stablehlo: samples or examples of a call; default: 16")
    parser.add_argument("--platforms", help="of stablehlo: of cpu, cuda, rocm, tpu; default: the one at hand")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names")
    same_data.add_argument(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    for name in ("function", "n", "platforms"):
        if args.format != "stablehlo" and getattr(args, name) is not None:
            raise ConfigError(f"--{name}: expected none beside --format={args.format}")
    if args.n is not None:
        require_between("--n", args.n, 1, MOST_SAMPLES)
    platforms = _platforms(args.platforms)
    folder = _folder(args)
    run = TrainedRun(run_of_seed(args.workdir, args.seed).path, args.step, accept_data=args.accept_data)
    averaged = not args.live
    if args.format == "safetensors":
        found = export.parameters(run, averaged)
    elif args.format == "huggingface":
        found = export.huggingface(run, averaged)
    else:
        found = export.compiled(run, averaged, args.function or "sample", args.n or 16, platforms)
    written = export.write(run, outputs.made(folder), found)
    print("\n".join(paths.shortest(folder / name) for name in written))


def _platforms(text: str | None) -> tuple[str, ...]:
    """The names in `cpu,cuda`, each once; () = the one at hand."""
    names = tuple(text.split(",")) if text is not None else ()
    for name in names:
        if name not in export.PLATFORMS:
            raise ConfigError(f"--platforms: expected some of {', '.join(export.PLATFORMS)}, got {shown(name)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"--platforms: expected each name once, got {text}")
    return names


def _folder(args: argparse.Namespace) -> epath.Path:
    """Raises ConfigError if it is no local folder, or has one of the files. Makes nothing."""
    if is_remote(args.out):
        raise ConfigError(f"--out: expected a local folder, got {args.out}")
    folder = absolute(args.out)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out: expected a folder, {folder} is a file")
    found = [name for name in (*FILES[args.format](args), export.CARD) if (folder / name).exists()]
    if found and not args.overwrite:
        raise ConfigError(f"--out: {folder / found[0]} exists; pass --overwrite to replace it, or another folder")
    return folder
