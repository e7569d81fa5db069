"""Executes the notebooks of this folder and keeps what they show: `python docs/notebooks/run.py [vae ...]`.

Each runs in a temporary folder, on the CPU, with the code of this checkout.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

HERE = Path(__file__).resolve().parent
DIGEST = "executed_source"  # in a notebook's metadata: the sources that its outputs are of
TIMEOUT = 600  # seconds of a cell


def read(name: str) -> nbformat.NotebookNode:
    """The notebook `name`, such as "vae"."""
    return nbformat.read(HERE / f"{name}.ipynb", as_version=4)


def digest(notebook: nbformat.NotebookNode) -> str:
    """Of the sources of the code cells."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def execute(notebook: nbformat.NotebookNode, folder: str | os.PathLike) -> None:
    """Fills in the outputs.

    Args:
      folder: what the cells run in.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell raised.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_DISABLE_"))}
    environment |= {"JAX_PLATFORMS": "cpu", "IPYTHONDIR": os.fspath(Path(folder, ".ipython"))}
    environment["PYTHONPATH"] = os.fspath(HERE.parent.parent)
    client = nbclient.NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": os.fspath(folder)}},
        extra_arguments=["--log-level=ERROR"],
        coalesce_streams=True,
        record_timing=False,
    )
    client.execute(env=environment)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            DIGEST: digest(notebook),
        }
    )


def main(names: list[str]) -> None:
    for name in names or sorted(path.stem for path in HERE.glob("*.ipynb")):
        notebook = read(name)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, folder)
        nbformat.write(notebook, HERE / f"{name}.ipynb")


if __name__ == "__main__":
    main(sys.argv[1:])
