"""Checks that a run continues on the data it began with. data.json in its directory holds their fingerprint."""

import argparse
import json
import sys
from typing import Any

from gen_jax.data.fingerprint import differences, fingerprint
from gen_jax.errors import DataError
from gen_jax.io import json_text
from gen_jax.io.disk import unreadable, write_atomic
from gen_jax.parallel.processes import is_primary
from gen_jax.runs.run_dir import RunDir

KEY = "fingerprint"


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept_data", action="store_true", help="continue though the data have changed since the start"
    )


def check(run_dir: RunDir, dataset: Any, accept: bool) -> list[str]:
    """The differences between a data set and the one that the run began with. Empty if the run has not begun.

    Raises:
      DataError: there are some, and `accept` is false.
      StorageError: data.json cannot be read.
    """
    if not run_dir.config_file.exists():
        return []
    try:
        content = json_text.loads(run_dir.data_file.read_text())
        old, _ = dict(content[KEY]), [*content["accepted"]]
    except FileNotFoundError:
        if is_primary():
            print(f"data: {run_dir.path} has no data.json: its data are not compared", file=sys.stderr)
        return []
    except OSError as error:
        raise unreadable(error, run_dir.data_file) from error
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{run_dir.data_file} is damaged; delete it to continue with the data as they are") from None
    changes = differences(old, json.loads(json.dumps(fingerprint(dataset))))
    if changes and not accept:
        raise DataError(
            f"the data are not those that {run_dir.path} began with: {'; '.join(changes)}; "
            "pass --accept_data to continue with them"
        )
    if changes and is_primary():
        print(f"data: accepted: {'; '.join(changes)}", file=sys.stderr)
    return changes


def keep(run_dir: RunDir, dataset: Any, changes: list[str]) -> None:
    """Writes data.json at the first start, and again with the accepted `changes`, which it lists."""
    if is_primary() and (changes or not run_dir.data_file.exists()):
        accepted = [*run_dir.accepted_data(), changes] if changes else []
        content = {KEY: fingerprint(dataset), "accepted": accepted}
        write_atomic(run_dir.data_file, json.dumps(content, indent=2) + "\n")
