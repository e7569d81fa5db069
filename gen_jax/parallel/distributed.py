"""Several processes as one run: how they connect, how they end, and how to start them on one machine.

There are three ways: `--coordinator`, `--num_processes` and `--process_id`, or their environment variables; a cluster
that jax detects (Slurm, Open MPI, Kubernetes, TPU); `--num_processes=2` alone, which starts them on this machine.
"""

import argparse
import atexit
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import jax

from gen_jax import compat
from gen_jax.errors import ConfigError, Interrupted, Lost, first_line
from gen_jax.parallel import aborts

VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
DEVICES = "--xla_force_host_platform_device_count"
FORWARDED = {signal.SIGTERM: signal.SIGTERM, signal.SIGINT: signal.SIGINT, signal.SIGHUP: signal.SIGTERM}
GRACE_S = 40.0  # between the first local process that fails and the end of the others
FAREWELL_MS = 5_000  # that a process which failed waits for the others to have failed alike


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--coordinator", help="HOST:PORT of process 0, the same in all processes")
    parser.add_argument(
        "--num_processes", type=int, help="of the run; without --process_id, starts that many here, on the CPU"
    )
    parser.add_argument("--process_id", type=int, help="of this process: 0, 1, ...")


MOST_HERE = 64  # processes of a trial on one machine


def check(args: argparse.Namespace) -> None:
    """Adds arguments from the environment, and checks that all of them fit together.

    Raises:
      ConfigError: an argument is missing or out of range.
    """
    for name, variable in VARIABLES.items():
        if getattr(args, name) is None and (text := os.environ.get(variable)):
            if name != "coordinator" and not text.isdecimal():
                raise ConfigError(f"{variable}: expected a number, got {text!r}")
            setattr(args, name, text if name == "coordinator" else int(text))
    if args.num_processes is not None and args.num_processes < 1:
        raise ConfigError(f"--num_processes: expected at least 1, got {args.num_processes}")
    if args.coordinator is None:
        if args.process_id is not None:
            raise ConfigError("--process_id: expected --coordinator beside it")
        if (args.num_processes or 1) > MOST_HERE:
            raise ConfigError(
                f"--num_processes: expected at most {MOST_HERE} on one machine, got {args.num_processes}; "
                "--coordinator joins others"
            )
        return
    if not re.fullmatch(r"\S+:\d+", args.coordinator):
        raise ConfigError(f"--coordinator: expected HOST:PORT, got {args.coordinator!r}")
    if args.num_processes is None:
        raise ConfigError("--num_processes: expected the number of processes beside --coordinator")
    if args.process_id is None or not 0 <= args.process_id < args.num_processes:
        raise ConfigError(f"--process_id: expected 0 to {args.num_processes - 1}, got {args.process_id}")


def is_local_trial(args: argparse.Namespace) -> bool:
    """Whether checked arguments ask to start processes on this machine.

    Raises:
      ConfigError: they do, and the run directory is not local.
    """
    found = args.coordinator is None and (args.num_processes or 1) > 1
    if found and "://" in args.workdir:
        raise ConfigError(f"--num_processes: expected a local workdir without --coordinator, got {args.workdir}")
    return found


@contextlib.contextmanager
def joined(args: argparse.Namespace) -> Iterator[None]:
    """Connects this process to the others that the checked arguments, or a cluster that jax detects, name.

    Does nothing for a single process. Enter it before a device is touched. A process that fails does not wait for the
    others: they may be waiting for it.

    Raises:
      ConfigError: the processes do not connect.
    """
    if not (args.coordinator or (args.num_processes is None and _in_a_cluster())):
        yield
        return
    try:
        jax.distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    except (RuntimeError, ValueError) as error:
        line = first_line(error)
        raise ConfigError(f"--coordinator: expected all processes to meet at {_address(args)}: {line}") from None
    try:
        with aborts.explained():
            yield
    except BaseException as error:
        _part(error)
        raise


def _address(args: argparse.Namespace) -> str:
    return args.coordinator or "the cluster's"


def _in_a_cluster() -> bool:
    """Whether jax detects a job of several processes. (It would treat a job of one as a reason to hide GPUs.)"""
    try:
        with warnings.catch_warnings(action="ignore"):
            return compat.cluster_processes() > 1
    except Exception as error:  # of the cluster's own client
        line = first_line(error)
        raise ConfigError(f"--num_processes: expected 1, or a cluster that jax can ask: {line}") from None


def _part(error: BaseException) -> None:
    """If not all processes failed, ends this one without jax's final barrier, which would wait for the others."""
    try:
        assert compat.global_state.client
        compat.global_state.client.wait_at_barrier("gen_jax_failed", FAREWELL_MS)
    except Exception:
        code = Interrupted.code if isinstance(error, KeyboardInterrupt) else getattr(error, "code", 1)
        atexit.register(_leave, code)  # runs before jax's, which is older


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start_here(arguments: Sequence[str], num_processes: int, logs: Path) -> int:
    """Runs `gen-jax ARGUMENTS` in `num_processes` processes on the CPU of this machine. Returns the run's exit code.

    The CPU devices that XLA_FLAGS names are divided among them. Process 0 has this process's stdout and stderr, process
    i the file `logs/process_<i>.log`. SIGTERM and Ctrl-C reach process 0, which agrees with the others.

    Raises:
      ConfigError: the devices cannot be divided equally.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    env = _environment(num_processes, address)
    processes = []
    with contextlib.ExitStack() as files:
        for i in range(num_processes):
            env[VARIABLES["process_id"]] = str(i)
            out = files.enter_context(open(log_file(logs, i), "a")) if i else None
            # a group of its own: Ctrl-C would reach it twice
            command = [sys.executable, "-m", "gen_jax.cli", *arguments]
            processes.append(subprocess.Popen(command, env=dict(env), stdout=out, stderr=out, process_group=0))
        with _forwarding_to(processes):
            return _wait(processes, logs)


def log_file(logs: Path, i: int) -> Path:
    """The log file of process i > 0."""
    return logs / f"process_{i}.log"


def _environment(num_processes: int, address: str) -> dict[str, str]:
    flags = os.environ.get("XLA_FLAGS", "")
    found = re.search(rf"{DEVICES}=(\d+)", flags)
    devices = int(found[1]) if found else num_processes
    if devices % num_processes:
        raise ConfigError(f"--num_processes: expected a divisor of the {devices} devices in XLA_FLAGS")
    flags = f"{re.sub(rf'{DEVICES}=[0-9]+', '', flags)} {DEVICES}={devices // num_processes}".strip()
    group = {"coordinator": address, "num_processes": str(num_processes)}
    own = {VARIABLES[name]: value for name, value in group.items()} | {"XLA_FLAGS": flags}
    threads = {"NPROC": str(32 * devices)}  # as in `cli`: a collective that waits for another process holds one, too
    return {"JAX_PLATFORMS": "cpu", **threads, **os.environ, **own, "JAX_COORDINATOR_BIND_ADDRESS": address}


@contextlib.contextmanager
def _forwarding_to(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Signals reach process 0. A second Ctrl-C ends all processes, this one included."""
    interrupted = 0

    def forward(number: int, _: FrameType | None) -> None:
        nonlocal interrupted
        interrupted += number == signal.SIGINT
        if interrupted > 1:
            for process in processes:
                process.kill()
            sys.exit(Interrupted.code)
        if processes[0].poll() is None:
            processes[0].send_signal(FORWARDED[signal.Signals(number)])

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    wakeup = signal.set_wakeup_fd(-1)  # `interrupts` would end this process alone
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: list[subprocess.Popen], logs: Path) -> int:
    """Waits for all processes. Returns the exit code of the first that failed, and names it if it is not 0."""
    failed, deadline = None, float("inf")
    while any(process.poll() is None for process in processes):
        if failed is None:
            failed = next((i for i, process in enumerate(processes) if process.poll()), None)
            deadline = deadline if failed is None else time.monotonic() + GRACE_S
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.1)
    failed = next((i for i, process in enumerate(processes) if process.returncode), 0) if failed is None else failed
    if processes[0].returncode == processes[failed].returncode > 0:
        failed = 0  # it ended a moment later of the same, and said so
    code = processes[failed].returncode
    if failed or code < 0:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        where = f"; see {log_file(logs, failed)}" if failed else ""
        print(f"gen-jax: process {failed} {how}{where}", file=sys.stderr)
    return code if code >= 0 else Lost.code
