"""`gen-jax sample --workdir=D [--n=64] [--seed=0] [--step=latest|best|N]`: draws from a trained model.

Images become a grid (PNG), sound a .wav each (the first 64) and spectrograms, text a .txt (with `--stream` it appears
as it is drawn), other arrays a plot; the samples themselves go to an .npz beside it. The files are named after the run,
the step and the seed, and numbered where such files are there. A flag that the model does not read is an error.
`--translate` asks for translations of pictures instead.
"""

import argparse
import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from gen_jax.commands import outputs, translated
from gen_jax.core.sampling import SampleOptions, stream
from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.models.base import Autoregressive, Samples
from gen_jax.runs import plots
from gen_jax.runs.log import wav
from gen_jax.runs.run_dir import RunDir, write_atomic
from gen_jax.settings import LARGEST_SEED
from gen_jax.training import checks, same_data
from gen_jax.training.program import Program
from gen_jax.training.trained import TrainedRun, runs, sample_length

SOUNDS = 64  # wav files at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = SampleOptions()
    parser.add_argument("--workdir", type=paths.flag, required=True, help="the run directory")
    parser.add_argument("--step", default="latest", help="latest (default), best, or a number")
    parser.add_argument("--n", type=int, help="how many (default: 64); of texts, for each prompt (default: 1)")
    parser.add_argument("--seed", type=int, help="of the draws (default: 0)")
    parser.add_argument("--temperature", type=float, help=f"default: {default.temperature}; 0: the likeliest")
    parser.add_argument("--label", type=int, help="the class of all samples; default: all classes in turn")
    lengths = (
        f"tokens of text at most (default: {default.length}; of records: the longest's) or samples of sound (the same)"
    )
    parser.add_argument("--length", type=int, help=lengths)
    text = parser.add_argument_group("models that go token by token")
    text.add_argument("--prompt", action="append", default=[], help="text to continue, or to translate; repeatable")
    text.add_argument("--stream", action="store_true", help="print the text while it is drawn; one sample")
    text.add_argument("--top_k", type=int, help="of the k likeliest tokens; 0 = all (default)")
    text.add_argument("--top_p", type=float, help="of the fewest likeliest tokens that add up to p; 1 = all (default)")
    text.add_argument("--min_p", type=float, help="of tokens at least p times as likely as the likeliest; 0 = all")
    text.add_argument("--repetition_penalty", type=float, help="1 = off (default)")
    text.add_argument("--min_length", type=int, help="tokens before a text may end (default: 0)")
    text.add_argument("--beams", type=int, help="hypotheses of a beam search, of which the n best; 0 = draw (default)")
    penalty = f"of the beam search: log p / length ** penalty, which is not GNMT's (default: {default.length_penalty})"
    text.add_argument("--length_penalty", type=float, help=penalty)
    same_data.add_argument(parser)
    translated.add_arguments(parser)
    outputs.add_arguments(parser)


ABOVE_0, MANY, LARGE = math.ulp(0), 2**31 - 1, 1e30
MOST, LONGEST = 2**20, 2**24  # samples, and tokens of each
RANGES: dict[str, tuple[float, float]] = dict(
    n=(1, MOST),
    seed=(0, LARGEST_SEED),
    temperature=(0, LARGE),
    length=(1, LONGEST),
    top_k=(0, MANY),
    top_p=(ABOVE_0, 1),
    min_p=(0, 1),
    repetition_penalty=(ABOVE_0, LARGE),
    min_length=(0, MANY),
    beams=(0, MANY),
    length_penalty=(0, LARGE),
)


def _check_ranges(args: argparse.Namespace) -> None:
    for name, (low, high) in RANGES.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            least = "more than 0" if low == ABOVE_0 else f"at least {low}"
            raise ConfigError(f"--{name}: expected {least} and at most {high}, got {value}")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Of a run with `num_seeds`, as many samples of each seed."""
    _check_ranges(args)
    for run_dir in runs(args.workdir):
        _run(args, run_dir)


def _run(args: argparse.Namespace, run_dir: RunDir) -> None:
    trained = TrainedRun(run_dir.path, args.step, accept_data=args.accept_data)
    program = trained.program
    translated.check(args, program)
    if args.translate:
        return translated.run(args, trained)
    if not isinstance(program.model, Samples):
        raise ConfigError(f"config.model_name: expected a model that samples; {program.experiment.model_name} does not")
    options = _options(args, program)
    is_text = program.dataset.info.kind in ("tokens", "pairs")
    n = (args.n or 1) * options.distinct if is_text else args.n or 64
    if args.stream:
        _check_stream(program, n, options)
    draw = jax.jit(functools.partial(program.model.sample, n=n, options=options))
    if not args.stream:
        _check_draw(program, draw, n, options)
    step, state = trained.step, trained.state
    folder, seed = outputs.folder(args, run_dir), args.seed or 0
    rng = jax.random.key(seed)
    if args.stream:
        samples: Any = _stream(program, state, rng, options)
    else:
        samples = jax.device_get(draw(state, rng))
    stem = outputs.free(folder, f"sample_{run_dir.path.name}_step{step}_seed{seed}", overwrite=args.overwrite)
    if is_text:
        _write_text(folder, stem, samples, options.prompts, program, show=not args.stream)
    else:
        print(_write(folder, stem, samples, program))


def _check_draw(program: Program, draw: Callable, n: int, options: SampleOptions) -> None:
    """Raises ConfigError, naming the flag, for a search that cannot honour the options, and for too many samples."""
    flag = "length" if "length" in getattr(program.model, "reads", ()) and options.length > n else "n"
    try:
        checks.check_draw(program, draw, n, options, flag)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from None


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of SampleOptions that flags ask for; prompts as texts."""
    flags = {name: getattr(args, name) for name in (*RANGES, "label") if name not in ("n", "seed")}
    return {name: value for name, value in flags.items() if value is not None} | (
        {"prompts": args.prompt} if args.prompt else {}
    )


def _options(args: argparse.Namespace, program: Program) -> SampleOptions:
    """Raises ConfigError for a flag that the model, or a beam search of it, does not read."""
    info, tokenizer, given = program.dataset.info, program.dataset.tokenizer, _given(args)
    classes = getattr(program.experiment.model, "num_classes", 0)
    if args.prompt and tokenizer is None:
        raise ConfigError("--prompt: expected none; this model does not generate text")
    if args.label is not None and not 0 <= args.label < classes:
        known = f"a class below {classes}" if classes else "none; this model knows no classes"
        raise ConfigError(f"--label: expected {known}, got {args.label}")
    for name in given:
        if name not in getattr(program.model, "reads", ()):
            flag = "prompt" if name == "prompts" else name
            raise ConfigError(f"--{flag}: expected none; the model {program.experiment.model_name} does not read it")
    if args.min_length and info.end is None:
        raise ConfigError("--min_length: expected none; the texts of this model have no end token")
    if args.length_penalty is not None and not args.beams:
        raise ConfigError("--length_penalty: expected none without --beams, whose hypotheses it ranks")
    length = args.length or sample_length(info)
    if (args.min_length or 0) > length:
        raise ConfigError(f"--min_length: expected at most the length, {length}, got {args.min_length}")
    try:
        prompts = tuple(tuple(int(i) for i in tokenizer.encode(text)) for text in args.prompt) if tokenizer else ()
    except ValueError as error:
        raise ConfigError(f"--prompt: {error}") from None
    fields: dict[str, Any] = given | {"length": length, "end": info.end, "prompts": prompts}
    return SampleOptions(**fields)


def _check_stream(program: Program, n: int, options: SampleOptions) -> None:
    if (
        not isinstance(program.model, Autoregressive)
        or program.dataset.info.kind != "tokens"
        or program.dataset.tokenizer is None
    ):
        raise ConfigError(f"--stream: expected a model of text, {program.experiment.model_name} is none")
    if n > 1 or options.beams:
        raise ConfigError("--stream: expected one prompt, --n=1 and no --beams")


def _stream(program: Program, state: Any, rng: jax.Array, options: SampleOptions) -> tuple[np.ndarray, np.ndarray]:
    """Prints one text as it is drawn; returns what `sample` does."""
    decode: Any = program.context.decode_text
    model = program.model
    prompt, lengths = model.prompts(options, 1)
    drawn, shown = [], ""
    print(decode(options.prompts[0]) if options.prompts else "", end="", flush=True)
    for token, _ in stream(model, state, rng, prompt, lengths, options):
        drawn.append(int(token[0]))
        text = decode(np.asarray(drawn)).rstrip("\ufffd")  # bytes of a character that is not whole yet
        print(text[len(shown) :], end="", flush=True)
        shown = text
    print(decode(np.asarray(drawn))[len(shown) :])
    return np.asarray([drawn], np.int32), np.asarray([len(drawn)], np.int32)


def _write_text(folder: epath.Path, stem: str, samples: Any, prompts: tuple, program: Program, *, show: bool) -> None:
    """Texts after their prompts, or translations alone, with a line between them; records one a line."""
    tokens, lengths = samples
    decode = program.context.decode_text or (lambda ids: " ".join(map(str, ids.tolist())))
    continues = program.dataset.info.kind == "tokens"
    texts = []
    for i, (row, size) in enumerate(zip(tokens, lengths, strict=True)):
        prompt = decode(np.asarray(prompts[i % len(prompts)])) if prompts and continues else ""
        texts.append(prompt + decode(row[:size]))
    text = ("\n" if program.dataset.info.records else f"\n{'-' * 20}\n").join(texts)
    write_atomic(folder / f"{stem}.npz", outputs.npz(tokens=tokens, lengths=lengths))
    write_atomic(folder / f"{stem}.txt", text + "\n")
    if show:
        print(text)
    print(f"{folder / stem}.txt", file=sys.stderr)


def _write(folder: epath.Path, stem: str, samples: np.ndarray, program: Program) -> str:
    """Writes the samples and a form of them that people look at; returns what to print."""
    write_atomic(folder / f"{stem}.npz", outputs.npz(samples=samples))
    if program.dataset.info.kind == "audio":
        return _write_sounds(folder, stem, samples, program.dataset.info.sample_rate)
    image = plots.grid(samples) if samples.ndim == 4 else plots.scatter(samples[:, :2], equal=True)
    write_atomic(folder / f"{stem}.png", plots.png(image))
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
    image = plots.spectrograms(filled, sample_rate, names, tuple(f"+{i}" for i in range(columns)))
    write_atomic(folder / f"{stem}.png", plots.png(image))
    return f"{folder / stem}_0.wav ... _{len(shown) - 1}.wav\n{folder / stem}.png"
