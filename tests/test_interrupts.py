"""Signals to a command of its own process: each ends it with its exit code, also while the main thread is in C."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
READY = "print('ready', flush=True)"
IN_PYTHON = f"import time; {READY}; time.sleep(100)"
IN_C = f"import hashlib; {READY}; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"  # minutes, without one look


def start(work, prefix=()):
    """A process that has begun with `work`; `prefix` is the command that starts it."""
    own = "" if prefix else "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # pytest may be under nohup
    imports = "from gen_jax import cli\nfrom gen_jax.parallel import interrupts\n"
    text = f"{own}{imports}with cli.reported(), interrupts.early():\n    {work}"
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n", process.communicate()[1]
    time.sleep(0.2)  # it is in what follows
    return process


def end(process):
    """Its exit code and its stderr; fails where it takes 20 s of the 100 that its work would take."""
    try:
        err = process.communicate(timeout=20)[1]
    finally:
        process.kill()
    return process.returncode, err.decode()


def ctrl_c_twice(process):
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # the first waits for a place where nothing is lost
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_end_with_75(number):
    process = start(IN_PYTHON)
    process.send_signal(number)
    assert end(process) == (75, f"gen-jax: stopped by {number.name}; nothing is to be saved yet\n")


def test_sigint_ends_with_130():
    process = start(IN_PYTHON)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, "")


def test_under_nohup_sighup_does_nothing():
    process = start(IN_PYTHON, prefix=["nohup"])
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 75


def test_a_second_sigint_leaves_while_c_runs():
    process = start(IN_C)
    ctrl_c_twice(process)
    assert end(process) == (130, "")


IGNORED = """
    import gc, os, signal, threading, time
    hit = threading.Event()
    def swallow(*_):  # what a handler raises here is ignored
        if not hit.is_set():
            hit.set()
            os.kill(os.getpid(), {number})
            time.sleep(0.1)
    gc.callbacks.append(swallow)
    print('ready', flush=True)
    gc.collect()
    assert hit.is_set()
    time.sleep(100)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_within_the_garbage_collector_is_not_lost(number, code):
    """JAX collects in a callback, where Python ignores exceptions."""
    found, err = end(start(IGNORED.format(number=int(number)).strip()))
    assert found == code and "Traceback" not in err
    assert err == ("" if code == 130 else "gen-jax: stopped by SIGTERM; nothing is to be saved yet\n")
