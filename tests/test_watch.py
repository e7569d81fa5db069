"""The watch of several processes, beat by beat, over a store in memory."""

import types

import pytest

from gen_jax import watch

LIMIT_S = 6.0


class Store(dict):
    """The part of jax's store that is used."""

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self
        self[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.items() if key.startswith(folder)]


@pytest.fixture
def three(monkeypatch):
    """Watches of three processes, without their threads."""
    store, found = Store(), []
    for rank in range(3):
        state = types.SimpleNamespace(client=None, process_id=rank, num_processes=3)
        monkeypatch.setattr(watch, "global_state", state)
        found.append(watch._Watch(0.0, lambda: None))
        found[-1].client = store
    beat(found, found)
    return found


def beat(watches, moving=(), times=5):
    """What each of the watches says at last."""
    for _ in range(times):
        for each in moving:
            each.moved()
        said = [each.tick() for each in watches]
    return said


def test_nothing_is_said_of_processes_that_report(three):
    assert beat(three, three, times=50) == [None] * 3
    assert beat(three, times=50) == [None] * 3  # without a limit one may stand still


def test_who_is_silent_is_named_to_all(three):
    verdict = "process 2 is gone: no sign of life for 10 s"
    assert beat(three[:2], times=10) == [None, None]  # process 0 reads before process 2 reports
    assert beat(three[:2], times=1) == [verdict, verdict]


def test_after_an_error_the_silent_one_is_named_earlier(three):
    three[0].alarmed = True
    assert beat(three[:2], times=6) == ["process 2 is gone: no sign of life for 5 s"] * 2


def test_the_silence_of_process_0_is_seen_by_the_others(three):
    assert beat(three[1:], times=10)[0] == "process 0 is gone: no sign of life for 10 s"


def test_who_has_left_may_be_silent(three):
    three[2].leave(watch.LEFT)
    assert beat(three[:2], times=50) == [None, None]


def test_an_error_of_another_is_the_cause_only_where_there_is_one_here(three):
    """All may end of the same error, and process 0 be writing still."""
    three[2].leave(f"{watch.LEFT}: DataError: no file")
    assert beat(three[:2], times=50) == [None, None]
    three[0].alarmed = True
    assert beat(three[:2], times=1) == ["process 2 is gone: DataError: no file"] * 2


def test_of_those_that_stand_still_the_one_that_moved_least_is_named(three):
    for each in three:
        each.limit_s = LIMIT_S
    beat(three, three, times=1)
    beat(three, [three[0], three[2]], times=2)  # the others run into what they wait for a little later
    assert beat(three, times=4) == [None] * 3
    assert beat(three, times=1) == ["process 1 made no progress for 6 s (config.hang_limit_s)"] * 3
