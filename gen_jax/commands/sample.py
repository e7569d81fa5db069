"""`gen-jax sample --workdir=D [--n=64] [--seed=0] [--step=latest|best|N]`: draws from a trained model.

Images become a grid (PNG), sound a .wav each (the first 64) and spectrograms, other arrays a plot or text; the samples
themselves go to an .npz beside it. The files are named after the run, the step and the seed, and are never overwritten
unasked.
"""

import argparse
import functools
import io
import sys

import jax
import numpy as np
from etils import epath

from gen_jax import pictures
from gen_jax.commands import restored
from gen_jax.errors import ConfigError
from gen_jax.log import wav
from gen_jax.models.base import Samples
from gen_jax.program import Program
from gen_jax.run_dir import RunDir, write_atomic
from gen_jax.sampling import SampleOptions

SOUNDS = 64  # at most so many wav files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, help="the run directory")
    parser.add_argument("--step", default="latest", help="latest (default), best, or a number")
    parser.add_argument("--n", type=int, default=64, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=SampleOptions.temperature)
    parser.add_argument("--label", type=int, help="the class of all samples; default: all classes in turn")
    lengths = f"tokens of text (default: {SampleOptions.length}) or samples of sound (default: as the data)"
    parser.add_argument("--length", type=int, help=lengths)
    parser.add_argument("--prompt", default="", help="text to go on from")
    parser.add_argument("--out", help="directory for the files; default: WORKDIR/samples")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same name")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    for name, low in (("n", 1), ("seed", 0), ("temperature", 0), ("length", 1)):
        if getattr(args, name) is not None and not low <= getattr(args, name) < float("inf"):
            raise ConfigError(f"--{name}: expected at least {low}, got {getattr(args, name)}")
    run_dir = RunDir(args.workdir)
    program = Program(restored.experiment_of(run_dir), tokenizer_file=run_dir.saved_tokenizer())
    if not isinstance(program.model, Samples):
        raise ConfigError(f"config.model_name: expected a model that samples; {program.experiment.model_name} does not")
    options = _options(args, program)
    step, state = restored.restore(program, run_dir, args.step)
    folder = epath.Path(args.out) if args.out else run_dir.samples
    stem = f"sample_{run_dir.path.name}_step{step}_seed{args.seed}"
    if (folder / f"{stem}.npz").exists() and not args.overwrite:
        raise ConfigError(
            f"--overwrite: {folder / stem}.npz is there; pass --overwrite to replace it, or another --seed"
        )
    draw = jax.jit(functools.partial(program.model.sample, n=args.n, options=options))
    samples = jax.device_get(draw(state, jax.random.key(args.seed)))
    folder.mkdir(parents=True, exist_ok=True)
    print(_write(folder, stem, samples, program))


def _options(args: argparse.Namespace, program: Program) -> SampleOptions:
    tokenizer, classes = program.dataset.tokenizer, getattr(program.experiment.model, "num_classes", 0)
    if args.prompt and tokenizer is None:
        raise ConfigError("--prompt: expected none; this model does not generate text")
    if args.label is not None and not 0 <= args.label < classes:
        known = f"a class below {classes}" if classes else "none; this model knows no classes"
        raise ConfigError(f"--label: expected {known}, got {args.label}")
    prompts = (tuple(int(i) for i in tokenizer.encode(args.prompt)),) if args.prompt and tokenizer else ()
    info = program.dataset.info
    length = args.length or (info.shape[0] if info.kind == "audio" else SampleOptions.length)
    return SampleOptions(temperature=args.temperature, label=args.label, length=length, prompts=prompts)


def _write(folder: epath.Path, stem: str, samples: np.ndarray, program: Program) -> str:
    """Writes the samples and a form of them that people look at; returns what to print."""
    arrays = io.BytesIO()
    np.savez_compressed(arrays, samples=samples)
    write_atomic(folder / f"{stem}.npz", arrays.getvalue())
    if program.dataset.info.kind == "tokens":
        decode = program.dataset.tokenizer.decode if program.dataset.tokenizer else str
        text = "\n\n".join(decode(row) for row in samples)
        write_atomic(folder / f"{stem}.txt", text)
        print(text)
        print(f"{folder / stem}.txt", file=sys.stderr)
        return ""
    if program.dataset.info.kind == "audio":
        return _write_sounds(folder, stem, samples, program.dataset.info.sample_rate)
    image = pictures.grid(samples) if samples.ndim == 4 else pictures.scatter(samples[:, :2], equal=True)
    write_atomic(folder / f"{stem}.png", pictures.png(image))
    return f"{folder / stem}.png"


def _write_sounds(folder: epath.Path, stem: str, samples: np.ndarray, sample_rate: int) -> str:
    """Sounds [n, T] as wav files, the first `SOUNDS` of them, and a picture of their spectrograms in rows of 5."""
    shown = samples[:SOUNDS]
    for i, sound in enumerate(shown):
        write_atomic(folder / f"{stem}_{i}.wav", wav(sound[:, None] / 32767, sample_rate))
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    filled = np.pad(shown, ((0, rows * columns - len(shown)), (0, 0))).reshape(rows, columns, -1)
    names = tuple(f"{i * columns}" for i in range(rows))
    image = pictures.spectrograms(filled, sample_rate, names, tuple(f"+{i}" for i in range(columns)))
    write_atomic(folder / f"{stem}.png", pictures.png(image))
    return f"{folder / stem}_0.wav ... _{len(shown) - 1}.wav\n{folder / stem}.png"
