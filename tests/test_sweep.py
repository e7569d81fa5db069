"""Sweeps: every trial ends once, whatever dies; what is wrong is said before the first; the files say what was found.

Most of these train with `fake_trainer.py`, which costs nothing; the rest of a sweep is the real one.
"""

import json
import subprocess

import numpy as np
import optuna
import pytest
from fake_trainer import loss
from sweeping import GRID, RANGES, config_with, starts, sweep  # noqa: F401

from gen_jax import config as configs
from gen_jax.errors import ConfigError
from gen_jax.runs import status
from gen_jax.sweeps import space
from gen_jax.sweeps.definition import Definition, Search, definition


def test_a_grid_with_conditions_is_walked_whole(tmp_path):
    def define(s):
        s.maximize("val/elbo")
        if s.choice("a", ("x", (1, 2))) == "x":
            s.integer("b", 0, 4, step=2)
        s.choice("c", (True, 1))
        s.set("d", 0)

    points = [point for point, _ in space.grid(define)]
    assert [tuple(point.params.values()) for point in points] == [
        *(("x", b, c) for b in (0, 2, 4) for c in (True, 1)),
        *(((1, 2), c) for c in (True, 1)),
    ]
    assert points[-1].flags() == ["--config.a=(1, 2)", "--config.c=1", "--config.d=0"]
    study = optuna.create_study()
    values = [values for _, values in space.grid(define)]
    for value in values:
        study.enqueue_trial(value)
    assert [space.ask(define, study.ask()) for _ in values] == points


def test_a_grid_of_two_workers_ends_each_trial_once_and_finds_the_best(sweep, tmp_path):
    one = sweep(workers=2)
    trials = one.run()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 9
    assert starts(one) == [1] * 9
    assert len({tuple(trial.user_attrs["params"].items()) for trial in trials}) == 9
    best = min(trials, key=lambda trial: trial.value)
    assert best.user_attrs["params"] == {"optim.net.lr": 1e-3, "model.latent": 64}
    assert best.value == pytest.approx(1 + 2 / 8)
    assert not list(tmp_path.glob("d/journal.jsonl.lock*"))


def test_draws_do_not_depend_on_workers_or_on_stops(sweep):
    whole = sweep(RANGES, "random", "one", trials=4).run()
    sweep(RANGES, "random", "two", trials=2, workers=2).run()
    again = sweep(RANGES, "random", "two", trials=4)
    assert [trial.params for trial in again.run()] == [trial.params for trial in whole]
    assert starts(again) == [1] * 4
    other = sweep(RANGES, "random", "three", trials=2, flags=("seed=1",)).run()
    assert other[0].params != whole[0].params


@pytest.mark.parametrize(("body", "search"), [(GRID, "grid"), (GRID, "random"), (RANGES, "random")])
def test_a_trial_by_itself_is_the_one_that_the_sweep_would_train(body, search, sweep):
    whole = sweep(body, search, "one", trials=4).run()
    two = sweep(body, search, "two", trials=4)
    two.begin()
    drawn = [two.definition.drawn(i) for i in range(4)]
    assert [point.params for point in drawn] == [trial.user_attrs["params"] for trial in whole]
    for number in (3, 0):
        subprocess.run(two.trial_command(number), check=True)
        run = two.run_dir(number)
        run.config_file.write_text(json.dumps(configs.to_dict(two.definition.load(drawn[number]))))
        status.write(run.status_file, status.facts("done", 8))
    assert [trial.value for trial in two.run()] == [trial.value for trial in whole]
    assert starts(two) == [1] * 4


def test_a_trial_that_depends_on_others_is_not_trained_by_itself(sweep):
    with pytest.raises(ConfigError, match="--search: expected grid or random beside --trial, got tpe"):
        sweep(search="tpe").trial_command(0)
    with pytest.raises(ConfigError, match="--trial: expected 0 to 8, got 9"):
        sweep().trial_command(9)


def test_random_and_asha_try_no_point_of_a_grid_twice(sweep):
    asha, random = (sweep(search=search, flags=("eval_every=2",)) for search in ("asha", "random"))
    assert asha.total == random.total == 9
    assert asha.definition.grid == random.definition.grid != sweep().definition.grid
    assert sorted(map(str, asha.definition.grid)) == sorted(map(str, sweep().definition.grid))


def test_tpe_comes_closer_than_chance(tmp_path):
    """40 points for each of 8 seeds; a tenth of the distance to the best, which draws of another seed never have."""

    def distances(search: Search, seeds: range) -> list[float]:
        return [
            _distance(definition(config_with(tmp_path, RANGES), [f"--config.seed={seed}"], search)) for seed in seeds
        ]

    tpe, chance = np.median(distances("tpe", range(8))), np.median(distances("random", range(8)))
    assert tpe < chance / 10 < np.median(distances("random", range(8, 16)))


def _distance(made: Definition) -> float:
    """To the least loss, of 40 trials that are not trained."""
    study = optuna.create_study()
    for number in range(40):
        study.sampler = made.sampler(number)
        trial = study.ask()
        params = space.ask(made.define, trial).params
        study.tell(trial, loss(params["optim.net.lr"], params["model.latent"], 8))
    return study.best_value - (1 + 2 / 8)
