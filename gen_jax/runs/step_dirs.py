"""The step directories of a run, and the manifests with their checksums.

Orbax restores flipped bits without an error, and takes a step that a kill left unfinished for its latest one. So every
finished step has a manifest, `<step>.sha256.json` beside `<step>/`: the last file of a save. A step without one is
unfinished; a file that differs from it is damaged. The journal of a step that is evaluated after its save is recorded
there too.
"""

import contextlib
import hashlib
import json
import logging
import re
from typing import Any

from etils import epath

from gen_jax.io import json_text
from gen_jax.io.disk import is_remote, reading, write_atomic
from gen_jax.io.gcs import absolute
from gen_jax.runs import manifest

COMMITTED = "commit_success.txt"  # the last file of a step that Orbax writes where it cannot rename
log = logging.getLogger(__name__)


def available(directory: epath.PathLike) -> list[int]:
    """The finished steps, oldest first. Reads only: for watching the checkpoints of a running job."""
    directory = absolute(directory)
    return [step for step in steps(directory) if manifest_path(directory, step).exists()]


def steps(directory: epath.Path) -> list[int]:
    """Every step directory, finished or not, oldest first. Raises StorageError if `directory` is a file."""
    if not directory.exists():
        return []
    with reading(directory):
        return sorted(int(child.name) for child in directory.iterdir() if child.name.isdecimal() and child.is_dir())


def manifest_path(directory: epath.Path, step: int) -> epath.Path:
    """The last file that a save writes."""
    return directory / f"{step}.sha256.json"


def saving_path(directory: epath.Path, step: int) -> epath.Path:
    """An empty file, from before a save until its manifest is written."""
    return directory / f"{step}.saving"


def run_id(directory: epath.Path) -> str:
    """Of the run whose `checkpoints/` the directory is; "" where it has none."""
    return manifest.run_id(directory.parent / "manifest.json")


def named_run(directory: epath.Path) -> str:
    """The id that the newest manifest of a step names; "" where none does."""
    return next(
        (run for step in reversed(available(directory)) if (run := read_manifest(directory, step).get("run"))), ""
    )


def write_manifest(directory: epath.Path, step: int, content: dict[str, Any]) -> None:
    """Writes `content` whole or not at all, with the run's id and a hash of itself."""
    owner = run_id(directory)
    body = {**content, "step": step, **({"run": owner} if owner else {})}
    write_atomic(manifest_path(directory, step), json.dumps({**body, "sha256": _digest(body)}, indent=1))


def read_manifest(directory: epath.Path, step: int) -> dict[str, Any]:
    """{"step", "best_step", "files", "run"}, and "loop" where that was recorded after the save.

    {} where it is missing, unreadable or damaged.
    """
    try:
        if not manifest_path(directory, step).exists():  # gcsfs logs what it fails to read
            return {}
        found = json_text.loads(manifest_path(directory, step).read_text())
        digest = found.pop("sha256", None)
        intact = digest is None or digest == _digest(found)  # an older one has none
        return found if intact and found["step"] == step and isinstance(found["files"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint(path: epath.Path, hash_limit: int) -> dict[str, tuple[int, str | None]]:
    """File -> (bytes, sha256), or (bytes, None) where all of them are more than `hash_limit` bytes."""
    sizes = {file: file.stat().length for file in _files(path)}
    hashed = sum(sizes.values()) <= hash_limit
    return {str(file.relative_to(path)): (size, _sha256(file) if hashed else None) for file, size in sizes.items()}


def _files(path: epath.Path) -> list[epath.Path]:
    """Every file below `path`, in order; epath has no recursive glob."""
    children = sorted(path.iterdir())
    return [file for child in children for file in (_files(child) if child.is_dir() else [child])]


def _sha256(file: epath.Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def damage(directory: epath.Path, step: int) -> str | None:
    """What is wrong with a step, or None where it is intact."""
    if not (directory / str(step)).exists():
        return f"there is none (finished: {available(directory)})"
    found = read_manifest(directory, step)
    if not found:
        return "its save was not finished (no readable manifest)"
    if is_foreign(directory, step):
        return "it is of another run; config.init_from starts from one"
    try:
        for name, (size, digest) in found["files"].items():
            file = directory / str(step) / name
            if not file.exists():
                return f"{name} is missing"
            if file.stat().length != size:
                return f"{name} has {file.stat().length} bytes, expected {size}"
            if digest is not None and _sha256(file) != digest:
                return f"{name} is damaged (its sha256 differs)"
    except (TypeError, ValueError):
        return "its manifest is damaged"
    except OSError as error:
        return f"it is not readable: {error.strerror}"
    return None


def is_foreign(directory: epath.Path, step: int) -> bool:
    """Whether a step was saved by another run. An older manifest does not say."""
    owner, own = read_manifest(directory, step).get("run", ""), run_id(directory)
    return bool(owner and own) and owner != own


def settle(directory: epath.Path) -> str | None:
    """Removes unfinished steps, and renames every step newer than the newest intact one, with a warning.

    Steps of another run too. Returns the reason if that is impossible, else None: if finished steps exist and none of
    them is intact, or if all manifests or all steps of a trained run are gone, nothing is renamed.
    """
    if problem := _deleted(directory):
        return problem
    for child in list(directory.iterdir()) if directory.exists() else []:
        if "orbax-checkpoint-tmp" in child.name or child.name.endswith(".deleted") or _is_half(child):
            child.rmtree()
            continue
        vouched = re.fullmatch(r"(\d+)\.sha256\.json", child.name)
        if child.name.endswith(".tmp") or (vouched and not (directory / vouched[1]).exists()):
            child.unlink()
    broken = {}
    for step in reversed(steps(directory)):
        problem = damage(directory, step)
        if problem is None:
            broken |= {old: damage(directory, old) for old in steps(directory) if is_foreign(directory, old)}
            break
        broken[step] = problem
    else:
        problems = "; ".join(f"step {step}: {problem}" for step, problem in broken.items())
        if any(manifest_path(directory, step).exists() for step in broken):
            return f"{directory}: no checkpoint is intact ({problems}); remove them and metrics.jsonl to start again"
        if any(not saving_path(directory, step).exists() for step in broken) and _has_trained(directory):
            return (
                f"{directory}: the manifests (<step>.sha256.json) of all checkpoints are gone; bring them back, or "
                "take them unverified with --trust_checkpoints, or remove all and metrics.jsonl to start again"
            )
    for step, problem in broken.items():
        log.warning("%s: step %d is put aside as %s: %s", directory, step, put_aside(directory, step), problem)
    for child in list(directory.iterdir()) if directory.exists() else []:
        if child.name.endswith(".saving"):
            child.unlink()
    return None


def vouch(directory: epath.Path, hash_limit: int) -> None:
    """Writes a new manifest for each step that lost its own, from its present files, intact or not."""
    for step in steps(directory):
        if not manifest_path(directory, step).exists() and not saving_path(directory, step).exists():
            try:
                best = json_text.loads((directory / str(step) / "loop" / "metadata").read_text()).get("best_step")
            except (OSError, ValueError, AttributeError):
                continue  # no whole checkpoint
            files = fingerprint(directory / str(step), hash_limit)
            write_manifest(directory, step, {"best_step": best, "files": files})


def _deleted(directory: epath.Path) -> str | None:
    """The reason why a trained run cannot start at step 0: someone has removed its steps. Else None.

    A run that is killed before its first save has trained too: its directory exists, and holds no manifest.
    """
    if not _has_trained(directory):
        return None
    again = "bring them back, or remove metrics.jsonl too to start again"
    if not directory.exists():
        return None if is_remote(directory) else f"{directory}: the checkpoints of this run are gone; {again}"
    names = [child.name for child in directory.iterdir()]
    if not names:
        log.warning("%s: no checkpoint: the run starts at step 0, and its log anew", directory)
    if any(re.fullmatch(r"\d+\.sha256\.json", name) for name in names) and all("." in name for name in names):
        whole = [name for name in names if name.endswith(".deleted")]  # a kill between two of its own deletions
        return None if whole else f"{directory}: the checkpoints of this run are gone, not their manifests; {again}"
    return None


def _has_trained(directory: epath.Path) -> bool:
    """Whether the log of the run has a row beyond step 0."""
    file = directory.parent / "metrics.jsonl"
    with reading(file):
        if not file.exists():
            return False
        with file.open("rb") as rows:
            return rows.readline().endswith(b"\n")


def _is_half(child: epath.Path) -> bool:
    """Whether a kill left a step half written or half deleted. For file systems without a rename."""
    if not (is_remote(child) and child.name.isdecimal()):
        return False
    return not (child / COMMITTED).exists() and not manifest_path(child.parent, int(child.name)).exists()


def put_aside(directory: epath.Path, step: int) -> str:
    name, count = f"{step}.damaged", 1
    while (directory / name).exists():
        count += 1
        name = f"{step}.damaged{count}"
    (directory / str(step)).rename(directory / name)
    with contextlib.suppress(OSError):
        manifest_path(directory, step).rename(directory / f"{name}.sha256.json")
    return name


def delete(directory: epath.Path, step: int) -> None:
    """Renames the step first, so that a kill leaves no half of it under its name. `gs://` renames file by file."""
    doomed = directory / str(step)
    if not is_remote(directory):
        doomed = doomed.rename(directory / f"{step}.deleted")
    manifest_path(directory, step).unlink()
    if is_remote(directory):
        (doomed / COMMITTED).unlink()
    doomed.rmtree()
