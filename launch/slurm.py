#!/usr/bin/env python
"""Submits a gen-jax command to Slurm: `python launch/slurm.py [OPTIONS] -- train --config=FILE.py --workdir=DIR ...`.

`launch/slurm.md` explains it. The job runs the Python that runs this script, which all nodes must see, as they must the
working directory and the run directory.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import launcher
from launcher import Command

from gen_jax import cli
from gen_jax.commands.sweep import sweep_of
from gen_jax.errors import ConfigError
from gen_jax.io.gcs import is_remote

# Slurm's own, under Slurm's names
COUNTS = {"nodes": "1", "ntasks_per_node": "1, or as many as GPUs", "gpus_per_node": "none", "cpus_per_task": "1"}
TEXTS = ("partition", "time", "account", "qos", "constraint", "mem", "job_name")
SOONER_S = 60  # that the signal may come before its time
SCRIPT = """\
#!/bin/bash
{directives}

trap "" TERM USR1  # this shell outlives its tasks
{setup}
srun {srun}
code=$?

job=$SLURM_JOB_ID
if [ -n "${{SLURM_ARRAY_JOB_ID-}}" ]; then  # its last task has the number of the whole array
  job="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
restarts={restarts}"$job"
again=false
case $code in
  {resumed}) again=true ;;
  {starts_again})
    echo "$code" >> "$restarts"
    [ "$(wc -l < "$restarts")" -le {max_restarts} ] && again=true ;;
esac
$again || rm -f "$restarts"
# a job that was cancelled is not running any more
if $again && [ "$(squeue --noheader --jobs="$job" --format=%T)" = RUNNING ]; then
  scontrol requeue "$job"
fi
exit $code
"""


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="launch/slurm.py", description="Submits a gen-jax command to Slurm.", allow_abbrev=False)
    for name, default in COUNTS.items():
        made.add_argument(f"--{name}", type=int, help=f"default: {default}")
    for name in TEXTS:
        made.add_argument(f"--{name}")
    made.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="another, as --sbatch=--nice=10")
    made.add_argument("--setup", help="a shell file that the job sources first: modules, variables")
    made.add_argument("--array", action="store_true", help="a sweep by grid or random: each trial a task of an array")
    launcher.add_arguments(made)
    return made


def script(options: argparse.Namespace, command: Command, trials: int = 0) -> str:
    """The batch script; `trials` is the size of the array, 0 = none.

    Raises:
      ConfigError: an option is wrong.
    """
    words = [sys.executable, "-m", "gen_jax.cli", *command.words]
    each = ["--label", "--kill-on-bad-exit=0"]  # those that have not failed end by themselves, and say why
    if options.cpus_per_task:
        each.append(f"--cpus-per-task={options.cpus_per_task}")
    setup = [f"export {name}={value}" for name, value in launcher.MALLOC.items()]
    if options.setup:
        setup.append(f". {shlex.quote(os.path.abspath(options.setup))}")
    return SCRIPT.format(
        directives="\n".join(f"#SBATCH {_quoted(line)}" for line in _directives(options, command, trials)),
        setup="\n".join(setup),
        srun=shlex.join([*each, *words]) + (' --trial="$SLURM_ARRAY_TASK_ID"' if trials else ""),
        resumed=" | ".join(map(str, launcher.RESUMED)),
        starts_again=" | ".join(map(str, launcher.RESTARTED)),
        restarts=shlex.quote(f"{_folder(command)}.restarts_"),
        max_restarts=options.max_restarts,
    )


def _directives(options: argparse.Namespace, command: Command, trials: int) -> list[str]:
    given = {name: getattr(options, name) for name in (*COUNTS, *TEXTS) if getattr(options, name) is not None}
    given = {"job_name": Path(command.workdir).name or command.name, "nodes": 1, **given}
    given["ntasks_per_node"] = _tasks(options, command, trials)
    if trials:
        given["array"] = f"0-{trials - 1}%{command.args.workers}"
    lines = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    folder = _folder(command).replace("%", "%%")
    # a job that ends with 0 is not requeued, so the tasks get a signal in time and end with 75
    own = [f"--output={folder}slurm_{'%A_%a' if trials else '%j'}.log", "--open-mode=append", "--requeue"]
    return [*lines, *own, f"--signal=TERM@{options.grace}", *options.sbatch]


def _tasks(options: argparse.Namespace, command: Command, trials: int) -> int:
    """Processes on each node."""
    gpus, trains = options.gpus_per_node or 1, command.name in launcher.TOGETHER or trials
    tasks = options.ntasks_per_node or (gpus if trains else 1)
    processes = tasks * (options.nodes or 1)
    if processes > 1 and not trains:
        raise ConfigError(f"--nodes: expected one process for {command.name}, got {processes}")
    if processes > 1 and tasks != gpus and options.gpus_per_node:  # jax gives each of several tasks one GPU
        raise ConfigError(f"--ntasks_per_node: expected {gpus}, a process for each GPU, got {tasks}")
    return tasks


def _folder(command: Command) -> str:
    """Of the log, with a trailing slash; "" = where the job begins."""
    if is_remote(command.workdir) or not command.workdir:
        return ""
    return os.path.join(os.path.abspath(os.path.expanduser(command.workdir)), "logs", "")


def _quoted(line: str) -> str:
    if "\n" in line:
        raise ConfigError(f"{line.partition('=')[0]}: expected one line, got {line!r}")
    return shlex.quote(line)


def _trials(options: argparse.Namespace, command: Command) -> int:
    """The size of the array, 0 = none. The folder of a sweep is begun here, before its tasks would all begin it."""
    if command.name != "sweep":
        if options.array:
            raise ConfigError(f"--array: expected a sweep after --, got {command.name}")
        return 0
    sweep = sweep_of(command.args, command.overrides)
    if options.array:
        sweep.trial_command(0)
    if not options.dry_run:
        sweep.begin()
    return sweep.total if options.array else 0


def _seconds(limit: str) -> float:
    """Of Slurm's `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours`, `days-hours:minutes` ..."""
    if limit.upper() in ("UNLIMITED", "INFINITE"):
        return float("inf")
    if not re.fullmatch(r"(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})", limit):
        raise ConfigError(f"--time: expected [days-]hours:minutes:seconds, got {limit!r}")
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, minutes, seconds = ([*parts, 0, 0] if dash or len(parts) == 3 else [0, *parts, 0])[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def main(argv: Sequence[str]) -> None:
    options, command = launcher.read(parser(), argv)
    for name in COUNTS:
        launcher.at_least(options, name, 1)
    if options.setup and not os.path.isfile(options.setup):
        raise ConfigError(f"--setup: expected a file, got {options.setup!r}")
    if options.time and _seconds(options.time) < options.grace + SOONER_S:  # else it would be requeued for ever
        raise ConfigError(f"--time: expected at least {options.grace + SOONER_S} s beside --grace={options.grace}")
    text = script(options, command, _trials(options, command))
    if options.dry_run:
        print(text, end="")
        return
    if folder := _folder(command):
        os.makedirs(folder, exist_ok=True)
    print(launcher.submit(["sbatch"], text))


if __name__ == "__main__":
    with cli.reported():
        main(sys.argv[1:])
