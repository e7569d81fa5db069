"""A Slurm of one machine: a node that claims 8 CPUs, the partition `main`, and `high`, which preempts it.

It has ports, keys and sockets of its own: a Slurm that the machine may have stays as it is.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from members import ROOT

# A requeued job waits until its credential has expired, which takes 120 s elsewhere.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60 PreemptMode=REQUEUE
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
PACKAGES = ("slurm-wlm", "munge")


def why_not() -> str:
    """Why there is no Slurm here, or "". Debian's is installed where root is in a container, and it starts nothing."""
    if os.geteuid():
        return "a Slurm of one machine needs root"
    if shutil.which("slurmctld") and shutil.which("munged"):
        return ""
    if not shutil.which("apt-get") or Path("/run/systemd/system").exists():
        return f"no Slurm here; install {' and '.join(PACKAGES)}"
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *words], env=env, capture_output=True, text=True)
        if done.returncode:
            return f"Slurm could not be installed: {done.stderr[-200:]}"
    return ""


class Slurm:
    """Its commands, within the environment that a job gets."""

    def __init__(self, folder: Path):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        self.env = kept | {"SLURM_CONF": str(folder / "slurm.conf"), "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}

    def run(self, *words: str) -> str:
        """Its stdout."""
        done = subprocess.run(words, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def submit(self, *words: str) -> str:
        """By launch/slurm.py; the job's number."""
        return self.run(sys.executable, "launch/slurm.py", *words).split()[-1]

    def jobs(self) -> dict[str, str]:
        """Those that have not ended: number (of an array's task, with its index) -> state."""
        return dict(line.split() for line in self.run("squeue", "--noheader", "--array", "--format=%i %T").splitlines())


def wait_for(true: Callable[[], object], what: str, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Slurm]:
    """Within it there is one; none of its processes is left behind."""
    for name in ("state", "spool", "log"):
        (folder / name).mkdir()
    key, host, slurm = folder / "munge.key", socket.gethostname().partition(".")[0], Slurm(folder)
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    with socket.socket() as one, socket.socket() as two:
        one.bind(("", 0)), two.bind(("", 0))
        ports = dict(controller_port=one.getsockname()[1], node_port=two.getsockname()[1])
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, **ports))
    files = {f"{name}-file": folder / f"munge.{name}" for name in ("key", "pid", "seed", "log")}
    munged = ["munged", "--foreground", "--force", f"--socket={folder / 'munge.sock'}"]
    daemons = {
        "munged": [*munged, *(f"--{name}={path}" for name, path in files.items())],
        "slurmctld": ["slurmctld", "-D"],
        "slurmd": ["slurmd", "-D", "-N", host],
    }
    with contextlib.ExitStack() as stack:
        for name, command in daemons.items():
            log = stack.enter_context(open(folder / "log" / name, "wb"))
            daemon = subprocess.Popen(command, env=slurm.env, stdout=log, stderr=log, process_group=0)
            stack.callback(_stop, daemon)
            time.sleep(1)
        wait_for(lambda: "idle" in slurm.run("sinfo", "--noheader", "--format=%t"), "a node", 30)
        stack.callback(_clear, slurm)
        yield slurm


def _stop(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _clear(slurm: Slurm) -> None:
    """Its jobs end, and their processes with them."""
    for number in {job.partition("_")[0] for job in slurm.jobs()}:
        slurm.run("scancel", number)
    wait_for(lambda: not slurm.jobs(), "the end of all jobs", 60)
