"""A run directory: what was run, with what, and how far it came.

`workdir/{config.json, data.json, manifest.json, STATUS.json, metrics.jsonl, perf.jsonl, checkpoints/, samples/}`, for
text tokenizer.json, and TensorBoard's event files beside them; local or `gs://`, where a spool takes what grows. Every
process may read; only process 0 writes.
"""

import contextlib
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from gen_jax.errors import CheckpointError, ConfigError, StorageError, first_line, kind_and_line
from gen_jax.io import gcs, json_text
from gen_jax.io.disk import full, is_remote, reading, write_atomic, writing
from gen_jax.io.gcs import absolute
from gen_jax.parallel.processes import is_primary
from gen_jax.runs import manifest, resume, step_dirs
from gen_jax.runs.old_config import upgraded
from gen_jax.runs.status import Follower, Kept, is_locked, locked, read, timestamp

log = logging.getLogger(__name__)


class RunDir:
    """The files of one run.

    Attributes: `path` itself, and in it `config_file`, `manifest_file`, `status_file`, `tokenizer_file`, `data_file`,
    `metrics`, `perf`, `checkpoints`, `samples`, `logs`, and `events`, the folder of the event files, after which
    TensorBoard names a run. All are absolute. `metrics`, `perf` and `events` are in the spool of a process that writes
    to `gs://`.

    Args:
      workdir: local or `gs://`.
      trust: checkpoints whose manifests are gone are taken as they are.
      override: what `resume.OVERRIDABLE` names may differ from the run's config.

    Raises:
      ConfigError: the workdir is on `gs://` and cannot be reached.
    """

    def __init__(self, workdir: epath.PathLike, trust: bool = False, override: bool = False):
        self.path, self.trust, self.override = absolute(workdir), trust, override
        self.upload: Callable[[], None] = lambda: None
        self.config_file = self.path / "config.json"
        self.manifest_file = self.path / "manifest.json"
        self.status_file = self.path / "STATUS.json"
        self.tokenizer_file = self.path / "tokenizer.json"
        self.data_file = self.path / "data.json"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.logs = self.path / "logs"
        self._append_in(self.path)

    def _append_in(self, folder: epath.Path) -> None:
        self.events, self.metrics, self.perf = folder, folder / "metrics.jsonl", folder / "perf.jsonl"

    def config(self, key: str = "workdir") -> dict[str, Any]:
        """The resolved config of the run; `key` is what names the directory, for an error.

        Raises:
          ConfigError: there is no run here, or its config.json is not readable.
        """
        if not self.config_file.exists():
            raise ConfigError(f"{key}: expected a run, found no config.json in {self.path}")
        try:
            found = json_text.loads(self.config_file.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{key}: {self.config_file} is not readable as JSON: {first_line(error)}") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{key}: {self.config_file} is no config: expected an object, found {found!r:.50}")
        return upgraded(found)

    def check(self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> bool:
        """True if a run continues here, False if nothing is trained here yet. Writes nothing and starts no backend.

        Args:
          config: resolved.
          defaults: of its keys, such as `model.width`; a key that an older config.json lacks counts as its default.

        Raises:
          ConfigError: something other than a run is here, or `config` differs from its config.json in more than
            `resume` allows.
        """
        return self._accepted(config, defaults or {})[0]

    def _accepted(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[bool, dict]:
        """As `_found`. Raises ConfigError as `check`."""
        trained, changes = self._found(config, defaults)
        if trained and (refused := resume.refused(changes, self.override)):
            raise ConfigError(
                f"workdir: {self.path} holds a run of another config: {resume.listed(refused)}; "
                "--override continues with other best.*, evals.* and optim.*.{lr,skip_nonfinite,skip_above}; "
                "--config.init_from.workdir starts another run from its parameters"
            )
        return trained, changes

    def is_trained(self) -> bool:
        """Whether there is a row or a checkpoint, here or in a seed's directory, or a process that may write one."""
        saved = bool(step_dirs.steps(self.checkpoints))
        rows = self.metrics.exists() and self.metrics.stat().length > 0
        seeds = self.path.glob("seed_*") if self.path.exists() else ()
        here = saved or rows or is_locked(self.path)
        return here or any(RunDir(seed).is_trained() for seed in seeds)

    def _found(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[bool, dict[str, tuple[Any, Any]]]:
        """Whether something is trained here, and how its config differs."""
        if not self._has_config():
            return False, {}
        trained = self.is_trained()  # before config.json is read: another process replaces it, then trains
        return trained, resume.changes(self.config(), json.loads(_dump(config)), json.loads(_dump(defaults)))

    def _has_config(self) -> bool:
        """Whether a run is here. False for an empty directory. Raises ConfigError if something else is here."""
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise ConfigError(f"workdir: expected a directory, {self.path} is a file")
        if not self.config_file.exists():
            # a kill while config.json is written leaves a .tmp; the logs of other processes begin before it
            if any(child != self.logs and not child.name.endswith(".tmp") for child in self.path.iterdir()):
                raise ConfigError(
                    f"workdir: {self.path} is not empty and holds no run (no config.json); choose another"
                )
            return False
        return True

    def create(self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> bool:
        """`check`, then writes config.json, makes the folders, gives the run its id. Returns what `check` found.

        Raises:
          ConfigError: as `check`, or the directory cannot be written.
          StorageError: the disk is full.
        """
        trained, changes = self._accepted(config, defaults or {})
        if is_primary():
            try:
                new = () if trained else (self.checkpoints,)  # of a run that has trained they are not made anew
                for folder in (self.path, *new, self.samples):
                    with writing(folder):
                        folder.mkdir(parents=True, exist_ok=True)
                    if folder == self.path:  # first of all, so that a kill leaves a directory that is known as a run
                        self._write_config(config, trained, changes)
                manifest.begin(self.manifest_file, step_dirs.named_run(self.checkpoints))
            except Exception as error:  # StorageError, or gcsfs's own
                if full(error):
                    raise
                line = str(error) if isinstance(error, StorageError) else kind_and_line(error)
                raise ConfigError(f"workdir: expected a directory that can be written, {line}") from None
        return trained

    def _write_config(self, config: Mapping[str, Any], trained: bool, changes: dict[str, tuple[Any, Any]]) -> None:
        """Writes config.json. Overridden values go into manifest.json first; an untrained run's config is replaced."""
        if trained and changes:
            manifest.begin(self.manifest_file, step_dirs.named_run(self.checkpoints))
            override = {key: {"was": a, "is": b} for key, (a, b) in changes.items()}
            manifest.append(self.manifest_file, {"time": timestamp(), "command": sys.argv, "override": override})
        if not trained:
            for file in (self.tokenizer_file, self.data_file):
                file.unlink(missing_ok=True)
            if changes:
                log.warning("%s: nothing was trained, its config is replaced: %s", self.path, resume.listed(changes))
        write_atomic(self.config_file, _dump(config))

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Locks out the other processes of this machine. Raises ConfigError if one of them trains here."""
        return locked(self.path) if is_primary() else contextlib.nullcontext()

    @contextlib.contextmanager
    def spooled(self) -> Iterator[None]:
        """Enter it before anything is appended. It does nothing on a file system that can append.

        On `gs://` process 0's `upload` copies the appended files there. It is also called at the end.

        Raises:
          CheckpointError: an upload failed.
        """
        if not is_remote(self.path):
            yield
            return
        with gcs.opened(self.path, (self.metrics.name, self.perf.name), is_primary()) as (folder, self.upload):
            self._append_in(folder)
            try:
                yield
            finally:
                self._append_in(self.path)

    def saved_tokenizer(self) -> str:
        """The path of the tokenizer that the run began with. "" before its first start, or if it has none."""
        return os.fspath(self.tokenizer_file) if self.tokenizer_file.exists() else ""

    def keep_tokenizer(self, tokenizer: Any) -> None:
        """Writes tokenizer.json at the first start; later starts read it. `tokenizer` may be None."""
        if is_primary() and tokenizer is not None and not self.tokenizer_file.exists():
            write_atomic(self.tokenizer_file, tokenizer.to_json())

    def accepted_data(self) -> list[list[str]]:
        """The changes of its data that the run accepted, by start."""
        return json_text.loads(self.data_file.read_text())["accepted"] if self.data_file.exists() else []

    def record_start(self, seed: int, **facts: Any) -> None:
        """Appends one entry to manifest.json: commit, versions, devices, XLA flags, seed, command, `facts`.

        Also the sha256 of the tokenizer, if the run has one.
        """
        if is_primary():
            if self.tokenizer_file.exists():
                facts["tokenizer_sha256"] = hashlib.sha256(self.tokenizer_file.read_bytes()).hexdigest()
            if accepted := self.accepted_data():
                facts["accepted_data"] = accepted
            manifest.append(self.manifest_file, {**manifest.environment(), "seed": seed, **facts})

    def keep_status(self) -> Kept:
        """A context manager that keeps STATUS.json during the run and at its end."""
        return Kept(self.status_file, is_primary())

    def follow(self) -> Follower:
        """Follows whether another process trains here."""
        return Follower(self.path, self.status_file)

    def status(self) -> dict[str, Any]:
        """STATUS.json: state, step, time ...; {} if it is missing or damaged."""
        return read(self.status_file)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, oldest first; a last one that is being written is left out.

        Raises:
          CheckpointError: a row is damaged; names its line.
          StorageError: the file cannot be read.
        """
        return _rows(self.metrics)

    def timings(self) -> list[dict[str, Any]]:
        """The rows of perf.jsonl, as `rows`."""
        return _rows(self.perf)

    def truncate_after(self, step: int) -> None:
        """Cuts the rows of metrics.jsonl and perf.jsonl beyond `step`, and a last line that a kill tore.

        -1 cuts everything. Sample pictures beyond it stay until they are written again.

        Raises:
          CheckpointError: a row up to `step` is damaged. Nothing is cut in its file.
          StorageError: a file cannot be read.
        """
        for file in (self.metrics, self.perf) if is_primary() else ():
            if file.exists():
                with reading(file):
                    data = file.read_bytes()
                kept = _rows_until(step, data, file)
                if kept != len(data):
                    write_atomic(file, data[:kept])


def _rows(file: epath.Path) -> list[dict[str, Any]]:
    with reading(file):
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [_row(line, file, i) for i, line in enumerate(lines, 1) if line.endswith(b"\n")]


def _rows_until(step: int, data: bytes, file: epath.Path) -> int:
    """The number of bytes of a file of rows that belong to rows up to `step`."""
    size = 0
    for i, line in enumerate(data.splitlines(keepends=True) if step >= 0 else (), 1):
        if not line.endswith(b"\n") or _row(line, file, i)["step"] > step:
            break
        size += len(line)
    return size


def _row(line: bytes, file: epath.Path, number: int) -> dict[str, Any]:
    try:
        row = json_text.loads(line)
        if isinstance(row["step"], int):
            return row
    except (ValueError, KeyError, TypeError):
        pass
    raise CheckpointError(
        f"{file}: line {number} is damaged: {line[:40]!r}; mend it, or remove it to continue without it"
    )


def _plain(value: Any) -> Any:
    """Converts values that `json` cannot write: ConfigDict sections, numpy scalars, paths."""
    to_plain: Callable | None = getattr(value, "to_dict", None) or getattr(value, "tolist", None)
    return to_plain() if to_plain else str(value)


def _dump(value: Any) -> str:
    value = dict(value) if isinstance(value, Mapping) else value
    return json.dumps(value, indent=2, default=_plain) + "\n"
