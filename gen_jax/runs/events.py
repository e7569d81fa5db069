"""TensorBoard's event files, without the thread of TensorBoard's own writer, whose errors come late."""

# pyright: reportAttributeAccessIssue=false
# protobuf makes the names of its messages at run time

import os
import re
import socket
import sys
import time
import types

from etils import epath
from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from gen_jax.io.disk import writing

# TensorBoard would import TensorFlow where it is installed (6 to 10 s); this marker is its own switch against that.
sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))


class EventFile:
    """A new event file, which TensorBoard reads after the existing ones, even if the clock was set back.

    Args:
      folder: made where it is missing.
      others: a folder with the earlier event files; by default, `folder`.

    Raises:
      StorageError: it cannot be written. So do the methods.
    """

    def __init__(self, folder: epath.Path, others: epath.Path | None = None):
        second = max(int(time.time()), _newest(folder if others is None else others) + 1)
        self._path = folder / f"events.out.tfevents.{second:010}.{socket.gethostname()}.{os.getpid()}.0"
        self._waiting = 0  # bytes that no flush has written yet
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "wb")  # noqa: SIM115 - `close` closes it
        self._records = RecordWriter(self._file)
        source = event_pb2.SourceMetadata(writer="gen_jax")
        self.add(file_version="brain.Event:2", source_metadata=source)
        self.flush()

    def add(self, **fields: object) -> None:
        """An event of this moment, with the fields of TensorBoard's `Event`."""
        data = event_pb2.Event(wall_time=time.time(), **fields).SerializeToString()
        self._waiting += len(data)
        with writing(self._path, self._waiting):
            self._records.write(data)

    def flush(self) -> None:
        with writing(self._path, self._waiting):
            self._file.flush()
        self._waiting = 0

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        with writing(self._path, self._waiting):
            self._file.close()


def _newest(folder: epath.Path) -> int:
    """The second in the name of the last event file; TensorBoard reads them in the order of their names."""
    names = [file.name for file in folder.iterdir()] if folder.exists() else []
    found = [re.match(r"events\.out\.tfevents\.(\d{1,10})\.", name) for name in names]
    return max((int(match[1]) for match in found if match), default=0)
