"""Python's own documentation: the docstrings of the standard library and the reference's topics, about 3 MB."""

import ast
import hashlib
import os
import re
import sys
import sysconfig
import textwrap
import warnings
from pathlib import Path
from typing import Literal

from gen_jax.data.datasets import TokenSet
from gen_jax.data.documents import pack, token_set, unpack
from gen_jax.data.records import RecordSet
from gen_jax.data.source import Arrays, TokenSource
from gen_jax.errors import DataError
from gen_jax.io.cache import cached

SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "turtledemo", "pydoc_data"}
Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Config(TokenSource):
    """The text is the same for all installations of one Python version that have the whole standard library."""

    source: Literal["pydoc"] = "pydoc"
    part: Literal["all", "prose"] = "all"
    """All, or the paragraphs that are plain English sentences (0.2 MB)."""


def load(cfg: Config, seed: int) -> TokenSet | RecordSet:
    """The set, cut into splits by document (a module, a topic). Raises DataError if there is no documentation."""
    root = Path(sysconfig.get_path("stdlib"))
    files = library_files(root)
    topics = root / "pydoc_data" / "topics.py"
    if len(files) < 100 or not topics.exists():
        raise DataError(f"pydoc: {root} holds no sources of the standard library, use another Python installation")
    listing = "".join(f"{file.relative_to(root)} {file.stat().st_size}\n" for file in [*files, topics])
    digest = hashlib.sha256(f"1 {sys.version_info}\n{listing}".encode()).hexdigest()[:16]
    documents = unpack(cached(f"pydoc-{digest}", lambda: _build(root, files, topics)))
    if cfg.part == "prose":
        documents = [text for document in documents if (text := prose(document))]
    return token_set({"train": documents}, cfg, seed)


def prose(text: str) -> str:
    """The paragraphs of 60 or more characters that hold only words and their punctuation; "" where none does."""
    paragraphs = ("\n".join(line.strip() for line in one.splitlines()) for one in re.split(r"\n\s*\n", text))
    kept = [one for one in paragraphs if len(one) >= 60 and re.fullmatch(r"[A-Z][A-Za-z ,.;:!?'\n-]*[.:!?]", one)]
    return "\n\n".join(kept)


def library_files(root: Path) -> list[Path]:
    """The modules of the standard library below `root`, without its tests, in order."""
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith("config-")]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(files)


def _build(root: Path, files: list[Path], topics: Path) -> Arrays:
    documents = [module_text(_module_name(file.relative_to(root)), file.read_bytes()) for file in files]
    documents += [f"{name}\n\n{text.strip()}\n" for name, text in sorted(_topics(topics).items())]
    return pack([text.encode() for text in documents if text])


def _module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _topics(path: Path) -> dict[str, str]:
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign):
            return ast.literal_eval(node.value)
    return {}


def module_text(name: str, source: bytes) -> str:
    """The docstrings of a module's source, each under its signature; "" where there are none. Nothing is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd escapes in old modules
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return ""
    parts = [f"module {name}\n{_indented(tree)}", *_members(tree, "")]
    return "\n".join(parts) if ast.get_docstring(tree) or len(parts) > 1 else ""


def _members(parent: ast.AST, prefix: str) -> list[str]:
    """Each documented class and function in `parent`, in order, with its members."""
    parts = []
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Documented):
            if ast.get_docstring(node):
                parts.append(f"{_signature(node, prefix)}\n{_indented(node)}")
            if isinstance(node, ast.ClassDef):
                parts += _members(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With):
            parts += _members(node, prefix)
    return parts


def _signature(node: Documented, prefix: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {prefix}{node.name}" + (f"({bases})" if bases else "")
    return f"{prefix}{node.name}({ast.unparse(node.args)})"


def _indented(node: ast.Module | Documented) -> str:
    text = ast.get_docstring(node)
    return textwrap.indent(text, "    ") + "\n" if text else ""
