"""A run directory: what was run, with what, and how far it came.

`workdir/{config.json, manifest.json, STATUS.json, metrics.jsonl, perf.jsonl, checkpoints/, tb/, samples/}`, for text
tokenizer.json; local or `gs://`, where a spool takes what grows. Every process may read; only process 0 writes.
"""

import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

from gen_jax import paths, spool
from gen_jax.errors import ConfigError, kind_and_line

# What may differ when the same run is started again: its length, its periods, its patience, how devices share it.
FREE_KEYS = ("total_steps", "log_every", "eval_every", "save_every", "hang_limit_s")
FREE_KEYS += ("mesh.data", "mesh.fsdp", "mesh.model", "sharding")
PACKAGES = ("gen-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "tensorflow-datasets")
ABSENT = "absent"


def absolute(path: epath.PathLike) -> epath.Path:
    """An absolute path; `gs://` is one already.

    Raises:
      ConfigError: its bucket cannot be reached, or `~` names no user.
    """
    text = os.fspath(path)
    spool.check(text)
    try:
        return epath.Path(text if spool.is_remote(text) else os.path.abspath(paths.expand(text)))
    except ValueError as error:
        raise ConfigError(f"workdir: {error}") from None


def write_atomic(path: epath.Path, data: str | bytes) -> None:
    """Writes a whole file or nothing: what stood there before survives a kill."""
    data = data.encode() if isinstance(data, str) else data
    if spool.is_remote(path):  # an object is never half written
        path.write_bytes(data)
        return
    temporary = path.parent / f".{path.name}.tmp"
    temporary.write_bytes(data)
    temporary.replace(path)


def is_primary() -> bool:
    """True in the one process that writes. Starts the backend."""
    return jax.process_index() == 0


class RunDir:
    """The files of one run.

    Attributes: `path` itself, and in it `config_file`, `manifest_file`, `status_file`, `tokenizer_file`, `metrics`,
    `perf`, `checkpoints`, `tb`, `samples`, `logs`; all absolute. `metrics`, `perf` and `tb` are in the spool of a
    process that writes to `gs://`.

    Raises:
      ConfigError: the workdir is on `gs://` and cannot be reached.
    """

    def __init__(self, workdir: epath.PathLike):
        self.path = absolute(workdir)
        self.upload: Callable[[], None] = lambda: None
        self.config_file = self.path / "config.json"
        self.manifest_file = self.path / "manifest.json"
        self.status_file = self.path / "STATUS.json"
        self.tokenizer_file = self.path / "tokenizer.json"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.logs = self.path / "logs"
        self._append_in(self.path)

    def _append_in(self, folder: epath.Path) -> None:
        self.metrics, self.perf, self.tb = (folder / name for name in ("metrics.jsonl", "perf.jsonl", "tb"))

    def config(self) -> dict[str, Any]:
        """The resolved config of the run.

        Raises:
          ConfigError: there is no run here, or its config.json is not readable.
        """
        if not self.config_file.exists():
            raise ConfigError(f"workdir: expected a run, found no config.json in {self.path}")
        try:
            return json.loads(self.config_file.read_text())
        except ValueError as error:
            raise ConfigError(f"workdir: {self.config_file} is not JSON: {error}") from None

    def check(self, config: Mapping[str, Any]) -> bool:
        """True if the run was started before, False if nothing is here yet. Writes nothing and starts no backend.

        Raises:
          ConfigError: something other than a run is here, or `config` differs from its config.json in more than
            `FREE_KEYS`.
        """
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
        old, new = flatten(self.config()), flatten(json.loads(_dump(config)))
        names = [name for name in old | new if name not in FREE_KEYS]
        pairs = {name: (old.get(name, ABSENT), new.get(name, ABSENT)) for name in names}
        changes = [f"{name} was {a!r}, is now {b!r}" for name, (a, b) in pairs.items() if a != b]
        if changes:
            raise ConfigError(f"workdir: {self.path} holds a run of another config: " + "; ".join(changes))
        return True

    def create(self, config: Mapping[str, Any]) -> bool:
        """`check`, then writes config.json and makes the folders. Returns what `check` found."""
        exists = self.check(config)
        if is_primary():
            try:
                for folder in (self.path, self.checkpoints, self.tb, self.samples):
                    folder.mkdir(parents=True, exist_ok=True)
                    if folder == self.path:  # first of all, so that a kill leaves a directory that is known as a run
                        write_atomic(self.config_file, _dump(config))
            except Exception as error:  # OSError, or gcsfs's own
                line = kind_and_line(error)
                raise ConfigError(f"workdir: expected a directory that can be written, {line}") from None
        return exists

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other process of this machine trains here meanwhile; the lock goes with its process, however that ends.

        Of another machine that trains in the same `gs://` nothing is known.

        Raises:
          ConfigError: another one does.
        """
        if not is_primary():
            yield
            return
        with open(spool.lock_file(self.path) if spool.is_remote(self.path) else self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(f"workdir: another process is training in {self.path}") from None
            yield

    @contextlib.contextmanager
    def spooled(self) -> Iterator[None]:
        """To be entered before anything is appended; nothing where files can be.

        On `gs://` process 0's `upload` copies there what was appended; it is called when this ends, too.

        Raises:
          CheckpointError: that failed.
        """
        if not spool.is_remote(self.path):
            yield
            return
        with spool.opened(self.path, (self.metrics.name, self.perf.name), is_primary()) as (folder, self.upload):
            self._append_in(folder)
            try:
                yield
            finally:
                self._append_in(self.path)

    def saved_tokenizer(self) -> str:
        """The path of the tokeniser that the run began with; "" before its first start, and where it has none."""
        return os.fspath(self.tokenizer_file) if self.tokenizer_file.exists() else ""

    def keep_tokenizer(self, tokenizer: Any) -> None:
        """Writes tokenizer.json at the first start, for all that comes later; `tokenizer` may be None."""
        if is_primary() and tokenizer is not None and not self.tokenizer_file.exists():
            write_atomic(self.tokenizer_file, tokenizer.to_json())

    def record_start(self, seed: int, **facts: Any) -> None:
        """Appends one entry to manifest.json: commit, versions, devices, XLA flags, seed, command, `facts`.

        And the sha256 of the tokeniser, where the run has one.
        """
        if is_primary():
            if self.tokenizer_file.exists():
                facts["tokenizer_sha256"] = hashlib.sha256(self.tokenizer_file.read_bytes()).hexdigest()
            starts = json.loads(self.manifest_file.read_text())["starts"] if self.manifest_file.exists() else []
            write_atomic(self.manifest_file, _dump({"starts": [*starts, {**environment(), "seed": seed, **facts}]}))

    def write_status(self, state: str, step: int, **facts: Any) -> None:
        """Replaces STATUS.json: `state` is running, done, failed, preempted, interrupted ..."""
        if is_primary():
            write_atomic(self.status_file, _dump({"state": state, "step": step, "time": _now(), **facts}))

    def status(self) -> dict[str, Any]:
        """STATUS.json, or {} before the first one."""
        return json.loads(self.status_file.read_text()) if self.status_file.exists() else {}

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, oldest first; a last one that is being written is left out."""
        lines = self.metrics.read_text().splitlines(keepends=True) if self.metrics.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def truncate_after(self, step: int) -> None:
        """Cuts the rows of metrics.jsonl and perf.jsonl beyond `step`, and a last line that a kill tore.

        -1 cuts everything. Sample pictures beyond it stay until they are written again.
        """
        if is_primary():
            for file in (self.metrics, self.perf):
                if file.exists():
                    lines = file.read_text().splitlines(keepends=True)
                    kept = "".join(line for line in lines if _row_step(line) <= step)
                    if kept != "".join(lines):
                        write_atomic(file, kept)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"width": 64}} -> {"model.width": 64}; an empty section is its own leaf."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def environment() -> dict[str, Any]:
    """What a result may depend on besides its config."""
    return {
        "time": _now(),
        "command": sys.argv,
        "git": _git(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "devices": [str(device) for device in jax.devices()],
        "platform": jax.default_backend(),
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _git() -> dict[str, Any] | None:
    def run(*command: str) -> str:
        folder = os.path.dirname(os.path.abspath(__file__))
        return subprocess.run(
            ["git", *command], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _row_step(line: str) -> int | float:
    """The step of a row; infinity for a torn one."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    """What `json` cannot write by itself: ConfigDict sections, numpy scalars, paths."""
    to_plain: Callable | None = getattr(value, "to_dict", None) or getattr(value, "tolist", None)
    return to_plain() if to_plain else str(value)


def _dump(value: Any) -> str:
    value = dict(value) if isinstance(value, Mapping) else value
    return json.dumps(value, indent=2, default=_plain) + "\n"
