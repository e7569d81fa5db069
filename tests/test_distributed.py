"""Two processes train as one does; they start, are stopped, and die together."""

import json
from pathlib import Path

import hosts
import numpy as np
import pytest
from hosts import CASES

QUICK = ["vae"]


def equal(cases, tmp_path):
    """20 steps and a checkpoint of 1 process x 4 devices against those of 2 processes x 2 devices."""
    programs = {case: hosts.program(case) for case in cases}
    ones = {}
    for case, program in programs.items():
        state, seen = hosts.trained(program)
        hosts.save(state, tmp_path / case / "one")
        ones[case] = seen, hosts.restored(program, tmp_path / case / "one")
    hosts.two_processes(Path(hosts.__file__), str(tmp_path), *cases)
    for case, (seen, leaves) in ones.items():
        two = json.loads((tmp_path / case / "two.json").read_text())
        assert two["restored"] == [float(np.sum(leaf, dtype=np.float64)) for leaf in leaves], case
        for step, (here, there) in enumerate(zip(seen, two["seen"], strict=True)):
            assert there == pytest.approx(here, rel=1e-5, abs=1e-6), (case, step)
        for here, there in zip(leaves, hosts.restored(programs[case], tmp_path / case / "two"), strict=True):
            np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-5, err_msg=case)


def test_two_processes_equal_one(tmp_path):
    equal(QUICK, tmp_path)


@pytest.mark.slow
def test_two_processes_equal_one_for_each_family_and_rule(tmp_path):
    equal([case for case in CASES if case not in QUICK], tmp_path)
