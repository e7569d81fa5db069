"""journal.jsonl: Optuna's study of a sweep."""

import os
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from gen_jax.sweeps.definition import ETA, Definition

STUDY = "sweep"


def opened(path: Path, definition: Definition) -> optuna.Study:
    """The study, made or continued; a known grid waits in it. Its direction follows a goal that was corrected."""
    rung = definition.rung
    asha = optuna.pruners.SuccessiveHalvingPruner(min_resource=rung, reduction_factor=ETA) if rung else None
    options = {
        "storage": JournalStorage(JournalFileBackend(os.fspath(path))),
        "study_name": STUDY,
        "direction": f"{definition.first.mode}imize",
        "pruner": asha or optuna.pruners.NopPruner(),
    }
    study = optuna.create_study(**options, load_if_exists=True)
    if study.direction.name.lower() != options["direction"]:
        trials = study.get_trials()
        optuna.delete_study(study_name=STUDY, storage=options["storage"])
        study = optuna.create_study(**options)
        study.add_trials(trials)
    for values in definition.grid[len(study.get_trials(deepcopy=False)) :]:
        study.enqueue_trial(values)
    return study


def begun(path: Path) -> list[FrozenTrial]:
    """The trials in a journal that were begun, in order; it is only read, and need not exist."""
    if not path.exists():
        return []
    storage = JournalStorage(JournalFileBackend(os.fspath(path)))
    if STUDY not in (study.study_name for study in storage.get_all_studies()):
        return []
    trials = storage.get_all_trials(storage.get_study_id_from_name(STUDY))
    return [trial for trial in trials if trial.state != TrialState.WAITING]


def all_refused(trials: list[FrozenTrial]) -> bool:
    """There are some, and none had a right config."""
    return bool(trials) and all(trial.user_attrs.get("refused") for trial in trials)


def is_judged(trial: FrozenTrial) -> bool:
    """By the goal: at its end, or on the way by asha."""
    return "tag" in trial.user_attrs or bool(trial.intermediate_values)
