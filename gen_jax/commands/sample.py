"""`gen-jax sample --workdir=D [--n=64] [--seed=0] [--step=latest|best|N]`: draws from a trained model.

Images become a grid (PNG), sound a .wav each (the first 64) and spectrograms, text a .txt (with `--stream` it appears
as it is drawn), other arrays a plot; the samples themselves go to an .npz beside it. The files are named after the run,
the step and the seed, and numbered where such files are there. The model's own options are flags, too:
`--sampling.temperature=0.5`, or `--temperature=0.5` for short. Another option is an error.
`--translate` asks for translations of pictures instead.
"""

import argparse
import sys
from typing import Any

import jax
import numpy as np
from etils import epath

from gen_jax.commands import outputs, sampling_flags, translated
from gen_jax.core.generate import stream
from gen_jax.core.info import Info
from gen_jax.core.sampling import MOST_SAMPLES, Prompted, Sampling, Text
from gen_jax.core.state import State
from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.models.base import Autoregressive, Samples, Stepped, sampler
from gen_jax.runs import grids, plots
from gen_jax.runs.log import wav
from gen_jax.runs.progress import Progress
from gen_jax.runs.run_dir import RunDir, write_atomic
from gen_jax.settings import LARGEST_SEED, require_between
from gen_jax.training import checks, same_data
from gen_jax.training.program import Program
from gen_jax.training.trained import TrainedRun, experiment_of, runs

SOUNDS = 64  # wav files at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=paths.flag, required=True, help="the run directory")
    parser.add_argument("--step", default="latest", help="latest (default), best, or a number")
    parser.add_argument("--n", type=int, help="how many (default: 64); of texts, for each prompt (default: 1)")
    parser.add_argument("--seed", type=int, help="of the draws (default: 0)")
    parser.add_argument("--stream", action="store_true", help="print a text while it is drawn; one sample")
    same_data.add_argument(parser)
    translated.add_arguments(parser)
    outputs.add_arguments(parser)


def epilog(argv: list[str]) -> str:
    """The end of `--help`: the options of the model of the run that `argv` names."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--workdir")
    workdir = finder.parse_known_args(argv)[0].workdir
    if workdir is None:
        return "With --workdir=D also the options of the run's model."
    return sampling_flags.described(experiment_of(runs(workdir)[0]))


RANGES = dict(n=(1, MOST_SAMPLES), seed=(0, LARGEST_SEED))


def run(args: argparse.Namespace, flags: list[str]) -> None:
    """Of a run with `num_seeds`, as many samples of each seed."""
    for name, (low, high) in RANGES.items():
        value = getattr(args, name)
        if value is not None:
            require_between(f"--{name}", value, low, high)
    for run_dir in runs(args.workdir):
        _run(args, run_dir, flags)


def _run(args: argparse.Namespace, run_dir: RunDir, flags: list[str]) -> None:
    trained = TrainedRun(run_dir.path, args.step, accept_data=args.accept_data)
    program, experiment = trained.program, trained.config
    given = sampling_flags.parse(flags, experiment, vars(args))
    translated.check(args, program, given)
    if args.translate:
        return translated.run(args, trained)
    if not isinstance(program.model, Samples):
        raise ConfigError(f"config.model_name: expected a model that samples; {experiment.model_name} does not")
    with sampling_flags.named():
        options = program.prepared(program.sampling(given))
    is_text = program.dataset.info.kind in ("tokens", "pairs")
    n = (args.n or 1) * options.distinct if is_text else args.n or 64
    if args.stream:
        _check_stream(program, n, options)
    else:
        with sampling_flags.named():
            checks.check_draw(program, n, options, "length" if options.size > n else "n")
    step, state = trained.step, trained.state
    folder, seed = outputs.folder(args, run_dir), args.seed or 0
    rng = jax.random.key(seed)
    if args.stream:
        samples: Any = _stream(program, state, rng, options)
    else:
        samples = _draw(program, state, rng, n, options)
    stem = outputs.free(folder, f"sample_{run_dir.path.name}_step{step}_seed{seed}", overwrite=args.overwrite)
    if is_text:
        prompts = options.prompts if isinstance(options, Prompted) else ()
        _write_text(folder, stem, samples, prompts, program, show=not args.stream)
    else:
        label = options.labels(n, getattr(program.model, "num_classes", 0))
        captions = options.titles(n, program.context.vocab, program.context.decode_text)
        titles = f"Samples of {run_dir.path.name} at step {step}", captions
        print(_write(folder, stem, samples, None if label is None else np.asarray(label), titles, program.dataset.info))


def _draw(program: Program, state: State, rng: jax.Array, n: int, options: Sampling) -> Any:
    """The samples on the host; those that take many steps show how far they are."""
    if not isinstance(program.model, Stepped):
        return jax.device_get(sampler(program.model, n, options)(state, rng))
    with Progress("sampling", program.model.sample_steps(options)) as progress:
        draw = sampler(program.model, n, options, lambda done, steps: progress.update(done))
        return jax.device_get(draw(state, rng))


def _check_stream(program: Program, n: int, options: Sampling) -> None:
    if (
        not isinstance(program.model, Autoregressive)
        or not isinstance(options, Text)
        or program.dataset.info.kind != "tokens"
        or program.dataset.tokenizer is None
    ):
        raise ConfigError(f"--stream: expected a model of text, {program.experiment.model_name} is none")
    if n > 1 or options.beams:
        raise ConfigError("--stream: expected one prompt, --n=1 and no --beams")


def _stream(program: Program, state: Any, rng: jax.Array, options: Any) -> tuple[np.ndarray, np.ndarray]:
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


def _write(
    folder: epath.Path,
    stem: str,
    samples: np.ndarray,
    label: np.ndarray | None,
    titles: tuple[str, list[str]],
    info: Info,
) -> str:
    """Writes samples of the classes `label` and a form of them that people look at; returns what to print.

    `titles` are that of all samples, and a caption for each where they were asked for by captions.
    """
    title, captions = titles
    write_atomic(folder / f"{stem}.npz", outputs.npz(samples=samples))
    if info.kind == "audio":
        return _write_sounds(folder, stem, samples, label, title, info)
    if info.kind not in ("image", "vector"):
        return f"{folder / stem}.npz"
    if samples.ndim == 4:
        image = grids.samples(samples, label, info.class_names, title, captions)
    else:
        image = plots.scatter(samples[:, :2], title=title, axes=("value 0", "value 1"), equal=True)
    write_atomic(folder / f"{stem}.png", plots.png(image))
    return f"{folder / stem}.png"


def _write_sounds(
    folder: epath.Path, stem: str, samples: np.ndarray, label: np.ndarray | None, title: str, info: Info
) -> str:
    """Sounds [n, T] as wav files, the first `SOUNDS` of them, and a picture of their spectrograms in rows of 5."""
    shown = samples[:SOUNDS]
    for i, sound in enumerate(shown):
        write_atomic(folder / f"{stem}_{i}.wav", wav(sound[:, None] / 32767, info.sample_rate))
    classes = (
        [f", class {grids.class_name(int(kind), info.class_names)}" for kind in label] if label is not None else []
    )
    names = [f"{i}{classes[i] if classes else ''}" for i in range(len(shown))]
    image = plots.spectrograms(shown, info.sample_rate, 5, title=title, names=names)
    write_atomic(folder / f"{stem}.png", plots.png(image))
    return f"{folder / stem}_0.wav ... _{len(shown) - 1}.wav\n{folder / stem}.png"
