"""Arrays that are kept: read back, built again where they are damaged, and by all processes or by none."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from gen_jax.io.cache import cached

ROOT = Path(__file__).resolve().parent.parent
# process 1 has "one" from before; what is built is a sum over both processes
PROCESS = """
import sys
import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from gen_jax.io.cache import cached

address, number = sys.argv[1], int(sys.argv[2])
if number == 1:
    cached("one", lambda: {"x": np.array(3)})
jax.distributed.initialize(address, 2, number)
builds = []

def build():
    builds.append(1)
    return {"x": process_allgather(np.array(number + 1)).sum()}

print([int(cached("one", build)["x"]) for _ in range(3)], len(builds))
"""


def test_arrays_are_built_once_and_again_where_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path / "cache"))
    builds = []

    def build():
        builds.append(1)
        return {"x": np.arange(3), "y": np.array("text")}

    for _ in range(2):
        found = cached("one", build)
        assert found["x"].tolist() == [0, 1, 2] and str(found["y"]) == "text" and len(builds) == 1
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    assert cached("one", build)["x"].tolist() == [0, 1, 2] and len(builds) == 2
    assert cached("one", build) and len(builds) == 2 and list((tmp_path / "cache").iterdir()) == [file]


def test_where_nothing_can_be_written_it_is_built_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path / "file"))
    assert [cached("one", lambda i=i: {"x": np.array(i)})["x"] for i in range(2)] == [0, 1]


def test_two_processes_build_both_where_one_lacks_it(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = []
    for number in range(2):
        env = os.environ | {"GEN_JAX_CACHE": str(tmp_path / str(number)), "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROCESS, address, str(number)]
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    try:
        lines = [process.communicate(timeout=120)[0].splitlines()[-1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    # at the first call one process alone has it, so both build
    assert lines == ["[3, 3, 3] 1", "[3, 3, 3] 1"]
