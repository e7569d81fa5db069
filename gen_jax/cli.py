"""`gen-jax COMMAND`: train, eval, sample, export, reproduce, check, list, data, compare, replay, bench, plan, sweep."""

import time

START = time.monotonic()  # before the slow imports: they count in first_step_s

import argparse  # noqa: E402
import contextlib  # noqa: E402
import importlib.metadata  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from types import ModuleType  # noqa: E402
from typing import NoReturn  # noqa: E402

from gen_jax.errors import ConfigError, RunError, StorageError  # noqa: E402
from gen_jax.io.quiet import discard  # noqa: E402
from gen_jax.parallel import interrupts  # noqa: E402

COMMANDS = {
    "train": "train a config, or continue where it stopped",
    "eval": "run a trained model's evaluators",
    "sample": "draw samples from a trained model",
    "export": "write a trained model for other programs: parameters, a compiled function, a GPT-2 folder",
    "check": "validate a config and print it, its parameters and its memory; trains nothing",
    "list": "list the models, data, evaluators, configs and optimizers, or the fields of one",
    "data": "list data sets, show one, prepare one",
    "reproduce": "train a config, and compare what it reaches with what its file expects",
    "compare": "one metric of several runs; refused where it was not measured alike",
    "replay": "repeat the step at which a run was not finite, and name the operation",
    "bench": "time a config's training step",
    "plan": "compile a config's training step for TPUs that are not here: memory, collectives, time",
    "sweep": "train a config with many values of the keys that its sweep(s) names",
}


KINDS = {"int": "an integer", "float": "a number"}
READER_GONE = 128 + 13  # as shells give it for SIGPIPE
LONGEST = 2_000  # characters of a line on stderr
LARGEST = 2**32 - 1  # of an integer: a seed's; all others are smaller


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        if wrong := re.fullmatch(r"argument (.+): invalid (int|float) value: (.*)", message, re.DOTALL):
            message = f"{wrong[1]}: expected {KINDS[wrong[2]]}, got {wrong[3]}"
        raise ConfigError(f"{self.prog}: {_short(message)}; see {self.prog} --help")


def _short(text: str) -> str:
    """On one line, and no longer than a reader wants: an argument may be any text."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ... ({len(line):,} characters)"


def main(argv: list[str] | None = None) -> None:
    """Runs a command; exits with 0, or with the code of the RunError after one line on stderr."""
    with reported(), interrupts.early():
        module, args, overrides = parse(sys.argv[1:] if argv is None else argv)
        _prepare_jax(deterministic=getattr(args, "deterministic", False))
        module.run(args, overrides)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Ends the process with the code of a RunError, after its one line on stderr."""
    try:
        yield
    except RunError as error:
        _end(str(error), error.code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        discard(sys.stdout)
        sys.exit(READER_GONE)
    except Exception as error:
        from gen_jax.io import disk

        if isinstance(error, MemoryError) or str(error).startswith("RESOURCE_EXHAUSTED"):  # of XLA
            _end(f"out of memory, of this machine or its device: {error}", ConfigError.code)
        if not disk.full(error):
            raise
        _end(disk.reason(error, getattr(error, "filename", None) or "the output"), StorageError.code)


def _end(line: str, code: int) -> NoReturn:
    """Where the disk of stdout or stderr is full, without the line."""
    for stream in (sys.stderr, sys.stdout):
        try:
            if stream is sys.stderr:
                print(f"gen-jax: {_short(line)}", file=stream)
            stream.flush()
        except OSError:
            discard(stream)
    sys.exit(code)


def parse(argv: list[str]) -> tuple[ModuleType, argparse.Namespace, list[str]]:
    """`COMMAND ...` as the command's module, its arguments and its `--config.key=value`.

    Raises:
      ConfigError: no such command, or a word that it does not take.
    """
    parser = Parser(prog="gen-jax", description="Generative models in JAX.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"gen_jax {importlib.metadata.version('gen_jax')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, help_line in COMMANDS.items():
        commands.add_parser(name, help=help_line, description=help_line, allow_abbrev=False, add_help=False)
    if not argv:
        parser.print_help()
        sys.exit(0)
    args, rest = parser.parse_known_args(argv[:1])
    module = importlib.import_module(f"gen_jax.commands.{args.command}")
    command = Parser(prog=f"gen-jax {args.command}", description=COMMANDS[args.command], allow_abbrev=False)
    module.add_arguments(command)
    if hasattr(module, "epilog") and {"-h", "--help"} & {*argv}:
        command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, module.epilog(argv[1:])
    args, rest = command.parse_known_args(rest + argv[1:])
    for name, value in vars(args).items():
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ConfigError(f"--{name}: expected at most {LARGEST}, got a larger one")
    takes = "--" if hasattr(module, "epilog") else "--config." if hasattr(args, "config") else None
    return module, args, _overrides(rest, takes)


def _overrides(rest: list[str], takes: str | None) -> list[str]:
    """The flags `--config.key=value` (or `--config.key value`) as `--config.key=value`.

    `takes` is what they begin with; None where the command has none.
    """
    joined: list[str] = []
    for word in rest:
        if joined and "=" not in joined[-1] and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    for word in joined:
        if takes is None or not word.startswith(takes):
            raise ConfigError(f"unknown argument {word}; see --help")
        if "=" not in word:
            raise ConfigError(f"{word}: expected a value")
    return joined


def give_threads() -> None:
    """Before jax starts: threads enough for collectives of virtual CPU devices, where there are any.

    A waiting collective holds a thread, and XLA has one for each device: two programs in flight (it lets 32) hang.
    """
    flags = re.findall(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    devices = max(map(int, [*flags, os.environ.get("JAX_NUM_CPU_DEVICES") or 1]))
    if devices > 1:
        os.environ["NPROC"] = str(max(int(os.environ.get("NPROC") or 0), 32 * devices))


def _prepare_jax(deterministic: bool) -> None:
    if deterministic:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    give_threads()
    import jax

    from gen_jax import compat

    compat.leave_absent_tpu()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(Path(base) / "gen_jax" / "jax")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


if __name__ == "__main__":
    main()
