"""Code that a config names: a file of a folder of gen_jax, a module of the user's by its dotted path, or a file."""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from gen_jax.errors import ConfigError, first_line
from gen_jax.settings import Settings, expand, nearest, shown

BASE = re.compile(r"(.*_)?base|evaluator")  # files of a folder that are none of its members


def names(package: ModuleType) -> list[str]:
    """The members of a folder of gen_jax, such as `gen_jax.models`."""
    return sorted(found.name for found in pkgutil.iter_modules(package.__path__) if not BASE.fullmatch(found.name))


def named_module(package: ModuleType, name: Any, key: str, base: type[Settings], function: str) -> ModuleType:
    """`name` of `package`, `my_package.my_module`, or the file `./my_module.py`; a relative path starts in this folder.

    Args:
      package: a folder of gen_jax.
      name: what the config has at `key`.
      key: names it, for an error.
      base: what the module's class `Config` derives from.
      function: the other name that the module must have.

    Raises:
      ConfigError: there is no such module, it fails, or lacks a name. The message lists the known names.
    """
    known, text = names(package), str(name)
    if name in known:
        return importlib.import_module(f"{package.__name__}.{text}")
    if text.endswith(".py"):
        module = _of_file(text, key)
    elif isinstance(name, str) and "." in text and all(part.isidentifier() for part in text.split(".")):
        module = _of_path(text, key)
    else:
        raise ConfigError(f"{key}: unknown name {shown(name)}{nearest(text, known)}")
    found = getattr(module, "Config", None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{key}: {text}: expected a class Config({base.__name__}), found none")
    if not callable(getattr(module, function, None)):
        raise ConfigError(f"{key}: {text}: expected a function {function}, found none")
    return module


def _of_path(name: str, key: str) -> ModuleType:
    """A module of the path of Python, and then of this folder."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    with failures_reported(name, key):  # finding it runs the packages around it
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise
            found = None
    if found is None:
        raise ConfigError(f"{key}: there is no module {name} on Python's path or in this folder")
    with failures_reported(found.origin or name, key):
        return importlib.import_module(name)


def _of_file(name: str, key: str) -> ModuleType:
    try:
        path = os.path.realpath(expand(name))
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    if not os.path.isfile(path):
        raise ConfigError(f"{key}: there is no file {shown(name)}")
    unique = f"gen_jax_file_{hashlib.sha256(path.encode()).hexdigest()[:16]}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec and spec.loader
    module = sys.modules[unique] = importlib.util.module_from_spec(spec)
    try:
        with failures_reported(path, key):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


@contextlib.contextmanager
def failures_reported(file: str, key: str) -> Iterator[None]:
    """What a file of the user's raises becomes one line; what it prints goes to stderr, which is for people.

    Raises:
      ConfigError: `key`, the file, the last line in it that an error went through, and the error.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        said = error.msg if isinstance(error, SyntaxError) else first_line(error)
        raise ConfigError(f"{key}: {_where(file, error)}: {type(error).__name__}: {said}") from error


def _where(file: str, error: BaseException) -> str:
    """The file and the last line in it that an error went through."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{file}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}:{lines[-1]}" if lines else file
