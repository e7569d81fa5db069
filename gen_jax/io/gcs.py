"""Workdirs on Google Cloud Storage, `gs://`: checks access, and handles files that cannot be appended to there.

Whole files go there directly, through epath and gcsfs, never TensorFlow; arrays through TensorStore. Files that grow
are written to a local folder, the spool, and uploaded whole.
"""

import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from etils import epath

from gen_jax.errors import CheckpointError, ConfigError, kind_and_line
from gen_jax.io import cache
from gen_jax.io.disk import is_remote
from gen_jax.settings import expand

log = logging.getLogger(__name__)
# epath would import TensorFlow where it is installed; gcsfs would ask over gRPC what kind of bucket it is.
os.environ.setdefault("EPATH_USE_TF", "0")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def absolute(path: epath.PathLike) -> epath.Path:
    """An absolute path; `gs://` is one already.

    Raises:
      ConfigError: its bucket cannot be reached, or `~` names no user.
    """
    text = os.fspath(path)
    check(text)
    try:
        return epath.Path(text if is_remote(text) else os.path.abspath(expand(text)))
    except ValueError as error:
        raise ConfigError(f"workdir: {error}") from None


def check(path: epath.PathLike) -> None:
    """Does nothing for a local path.

    Raises:
      ConfigError: the bucket does not exist, cannot be listed, or a package that it needs is not installed.
    """
    if is_remote(path):
        scheme, _, rest = os.fspath(path).partition("://")
        if scheme != "gs" or not rest.partition("/")[0]:
            raise ConfigError(f"workdir: expected a local path or gs://BUCKET/FOLDER, got {os.fspath(path)}")
        _reach(rest.partition("/")[0])


@functools.cache
def _reach(bucket: str) -> None:
    if importlib.util.find_spec("gcsfs") is None:
        raise ConfigError(f"workdir: gs://{bucket} needs an extra: pip install 'gen_jax[gcs]'")
    import fsspec
    from fsspec.config import conf

    # what TensorStore and other processes write would be missing in a cached listing
    conf.setdefault("gcs", {})["use_listings_cache"] = False
    try:
        fsspec.filesystem("gcs").call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)
    except FileNotFoundError:
        raise ConfigError(f"workdir: expected a bucket that exists, there is no gs://{bucket}") from None
    except Exception as error:  # gcsfs, aiohttp and google.auth raise kinds of their own
        raise ConfigError(f"workdir: gs://{bucket} cannot be read: {kind_and_line(error)}") from None


def lock_file(path: epath.PathLike) -> Path:
    """The file with which this machine records that it trains in `path`. Other machines do not see it."""
    file = cache.folder() / "locks" / hashlib.sha256(os.fspath(path).encode()).hexdigest()[:32]
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


@contextlib.contextmanager
def opened(remote: epath.Path, names: Sequence[str], uploads: bool) -> Iterator[tuple[epath.Path, Callable[[], None]]]:
    """A local folder that starts with the existing files `names` of `remote`, and a function that uploads it.

    It is also uploaded at the end. Without `uploads` the folder starts empty, and nothing is uploaded.

    Raises:
      CheckpointError: an upload failed.
    """
    with tempfile.TemporaryDirectory(prefix="gen_jax_") as name:
        folder = epath.Path(name)
        for file in (remote / name for name in names if uploads):
            if file.exists():
                (folder / file.name).write_bytes(file.read_bytes())
        spool = _Spool(Path(folder), remote)
        upload = spool.upload if uploads else lambda: None
        try:
            yield folder, upload
        except BaseException:
            try:
                upload()
            except CheckpointError as second:
                log.error("%s", second)  # the first error says why the run ends
            raise
        upload()


class _Spool:
    def __init__(self, folder: Path, remote: epath.Path):
        self.folder, self.remote = folder, remote
        self.copied: dict[Path, tuple[int, int]] = {}  # bytes and time of change, of what was copied last

    def upload(self) -> None:
        """Uploads the files that changed, whole. Raises CheckpointError if that fails."""
        try:
            for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
                found = file.stat()
                if self.copied.get(file) != (found.st_size, found.st_mtime_ns):
                    (self.remote / file.relative_to(self.folder).as_posix()).write_bytes(file.read_bytes())
                    self.copied[file] = found.st_size, found.st_mtime_ns
        except Exception as error:
            raise CheckpointError(f"{self.remote}: the logs were not uploaded: {kind_and_line(error)}") from error
