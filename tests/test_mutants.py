"""The tests notice wrong code: those of `mutants.py`."""

import mutants
import pytest


def test_each_mutant_has_its_own_name_and_its_text_once():
    names = [mutant.name for mutant in mutants.ALL]
    assert len(set(names)) == len(names)
    assert {mutant.name: mutants.places(mutant) for mutant in mutants.ALL} == dict.fromkeys(names, 1)


@pytest.mark.slow
def test_their_tests_pass_without_a_mutant():
    assert mutants.unchanged(mutants.ALL) == ""


@pytest.mark.slow
@pytest.mark.parametrize("mutant", mutants.ALL, ids=lambda mutant: mutant.name)
def test_a_mutant_is_killed(mutant):
    assert mutants.outcome(mutant) == "killed"
