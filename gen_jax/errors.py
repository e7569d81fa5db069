"""What can go wrong outside the code itself: one line for the user, one exit code for scripts."""

LONGEST = 500


class RunError(Exception):
    """An end that is not a bug: `cli` prints the message on stderr and exits with `code`."""

    code = 1


def first_line(error: BaseException) -> str:
    """Of what an error says, at most LONGEST characters: some libraries put a whole file into it."""
    line = str(error).strip().partition("\n")[0]
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def kind_and_line(error: BaseException) -> str:
    """The kind of an error, and the first line of what it says."""
    return f"{type(error).__name__}: {first_line(error)}"


class ConfigError(RunError):
    """The user's input is wrong. The message names the key and what was expected."""

    code = 2


class NonFiniteError(RunError):
    """A loss or a gradient became NaN or infinite. The message names the step."""

    code = 3


class CheckpointError(RunError):
    """A checkpoint is missing, damaged or does not fit."""

    code = 4


class StorageError(RunError):
    """What a run writes cannot be written, or read again: the disk is full, read-only or gone, a folder is where a file
    should be. The message names the path."""

    code = 4


class DataError(RunError):
    """Data is missing or unreadable. The message says what to run."""

    code = 5


class Preempted(RunError):
    """SIGTERM: the state is saved, the same command continues from there."""

    code = 75


class Lost(RunError):
    """A process hangs or died. The same command continues from the last checkpoint."""

    code = 76


class Interrupted(RunError):
    """Ctrl-C: the state is saved, the same command continues from there."""

    code = 130
