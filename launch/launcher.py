"""What the scripts in `launch/` share: `SCRIPT [OPTIONS] -- COMMAND ...`, where COMMAND is one of gen-jax.

It is read here, its config too, so that what is wrong in it is reported before it waits in a queue.
"""

import argparse
import dataclasses
import subprocess
from collections.abc import Sequence

from gen_jax import cli, config
from gen_jax.errors import ConfigError

RESUMED = (75, 143)  # preempted; 143: before Python had started. Restarted without limit
TOGETHER = ("train", "eval")  # the commands that several processes run as one
RESTARTED = (76, 134, 137)  # a process hangs or died: jax aborts the others. Restarted at most --max_restarts times
# glibc gives large blocks back to the kernel at once, and each step pays for their pages again. Bytes
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": 8 << 30,
    "MALLOC_TRIM_THRESHOLD_": 8 << 30,
    "MALLOC_TOP_PAD_": 256 << 20,
}


@dataclasses.dataclass(frozen=True)
class Command:
    """words: those after `gen-jax`. args, overrides: the parsed words."""

    words: list[str]
    args: argparse.Namespace
    overrides: list[str]

    @property
    def name(self) -> str:
        return self.words[0]

    @property
    def workdir(self) -> str:
        """ "" where the command has none."""
        return getattr(self.args, "workdir", "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry_run", action="store_true", help="print what would be submitted")
    parser.add_argument("--grace", type=int, default=120, help="seconds that the processes have to save in")
    parser.add_argument("--max_restarts", type=int, default=5, help="of a run that hangs or loses a process")


def read(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, Command]:
    """The options, and the command after `--`.

    Raises:
      ConfigError: either is wrong.
    """
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    if not words[at + 1 :]:
        parser.parse_known_args(words[:at])  # --help
        raise ConfigError("--: expected a gen-jax command after it, as in: -- train --config=FILE.py --workdir=DIR")
    options = parser.parse_args(words[:at])
    for name, low in (("grace", 1), ("max_restarts", 0)):
        at_least(options, name, low)
    _, args, overrides = cli.parse(words[at + 1 :])
    if getattr(args, "config", None):
        config.load(args.config, overrides)
    for name in ("coordinator", "num_processes", "process_id"):
        if getattr(args, name, None) is not None:
            raise ConfigError(f"--{name}: expected none after --: the processes find each other")
    return options, Command(words[at + 1 :], args, overrides)


def at_least(options: argparse.Namespace, name: str, low: int) -> None:
    """Raises ConfigError where a number is given and too small."""
    value = getattr(options, name)
    if value is not None and value < low:
        raise ConfigError(f"--{name}: expected at least {low}, got {value}")


def submit(program: Sequence[str], text: str) -> str:
    """Gives a text to a program of the cluster, and returns what that says.

    Raises:
      ConfigError: there is none here, or it refuses.
    """
    try:
        done = subprocess.run(program, input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise ConfigError(f"{program[0]}: not found here; --dry_run prints what it would get") from None
    if done.returncode:
        said = "; ".join(done.stderr.split("\n")).strip("; ")
        raise ConfigError(said or f"{program[0]}: ended with exit code {done.returncode}")
    return done.stdout.strip()
