"""A config's file, by its path or by the name it has in `experiments/`: run, and its `get_config(arg)` as a dict."""

import ast
import copy
import inspect
import os
import re
import runpy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_collections
import numpy as np
from ml_collections.config_dict import RequiredValueError

from gen_jax.errors import ConfigError
from gen_jax.io.modules import failures_reported
from gen_jax.settings import Flag, expand, literal, nearest, one_line, shown


def read(spec: str) -> dict[str, Any]:
    """What `get_config(arg)` gives, as `plain`.

    Raises:
      ConfigError: there is no such file, it fails (the message names the file and the line), or gives no ConfigDict.
    """
    names, file, arg = _run(spec)
    get_config = names.get("get_config")
    if not callable(get_config):
        raise ConfigError(f"--config: {file}: expected a function get_config(arg), found none")
    values = _values(arg, _declared(names, file), file)
    with failures_reported(file, "--config"):
        config = get_config(SimpleNamespace(**values))
    if inspect.iscoroutine(config):
        config.close()  # Python warns of one that is left
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(f"--config: {file}: expected get_config to return a ConfigDict, got {shown(config)}")
    try:
        return plain(config)
    except ConfigError as error:
        raise ConfigError(f"--config: {file}: {error}") from None


def experiments() -> dict[str, Path]:
    """The files that come with gen_jax by their names, such as `vae/digits`; a wheel holds them in its package."""
    here = Path(__file__).parent
    files = next((found for base in (here, here.parent) if (found := sorted(base.glob("experiments/*/*.py")))), [])
    return {f"{file.parent.name}/{file.stem}": file for file in files}


def arguments(spec: str) -> dict[str, Any]:
    """`ARGS` of the file: what the part after the colon may say, comma-separated, and what it is otherwise.

    `{"smoke": False, "data": ("digits", "mnist"), "run": "runs/a", "k": 1}` is `:smoke,data=mnist,run=runs/b,k=5`: a
    switch; one of several texts, by default the first; any text; an integer. `get_config(arg)` reads them as `arg.k`.

    Raises:
      ConfigError: `ARGS` holds something else.
    """
    names, file, _ = _run(spec)
    return _declared(names, file)


def argument(spec: str) -> dict[str, Any]:
    """The values of `arguments` in `FILE.py:arg`.

    Raises:
      ConfigError: the argument says something that is not declared.
    """
    names, file, arg = _run(spec)
    return _values(arg, _declared(names, file), file)


def named(spec: str, name: str, default: Any) -> Any:
    """What the file calls `name`; `default` where it has no such name."""
    return _run(spec)[0].get(name, default)


def sweep(spec: str) -> Callable[[Any], None]:
    """The function `sweep(s)` beside `get_config`; gen_jax.sweeps.space says what it may call.

    Raises:
      ConfigError: there is none.
    """
    names, file, _ = _run(spec)
    if not callable(names.get("sweep")):
        raise ConfigError(f"--config: {file}: expected a function sweep(s) beside get_config, found none")
    return names["sweep"]


def plain(value: Any, key: str = "config", outer: tuple[int, ...] = ()) -> Any:
    """A config as dicts, lists, numbers, texts and None; references have their values.

    Args:
      value: the config, or what it has at `key`.
      key: names it, for an error.
      outer: the `id` of each section and list around it.

    Raises:
      ConfigError: something else is in it, a placeholder without a value, or a section within itself. The message names
        the key.
    """
    if isinstance(value, ml_collections.FieldReference):
        try:
            value = value.get()
        except RequiredValueError:
            raise ConfigError(f"{key}: expected a value, found an empty placeholder") from None
    if id(value) in outer:
        raise ConfigError(f"{key}: expected no section or list within itself")
    inside = (*outer, id(value))
    if isinstance(value, Mapping | ml_collections.ConfigDict):
        items = (
            value.items(preserve_field_references=True)
            if isinstance(value, ml_collections.ConfigDict)
            else (value.items())
        )
        return {_name(name, key): plain(inner, f"{key}.{name}", inside) for name, inner in items}
    if isinstance(value, list | tuple):
        return [plain(inner, f"{key}.{i}", inside) for i, inner in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{key}: expected a number, a text, a list or a section, got {shown(value)}")


def _name(name: Any, key: str) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"{key}: expected names that are texts, got {shown(name)}")
    return name


def _declared(names: Mapping[str, Any], file: str) -> dict[str, Any]:
    declared = names.get("ARGS", {})
    if not isinstance(declared, dict) or not all(
        isinstance(name, str) and _usage(name, declared[name]) for name in declared
    ):
        expected = "names with False, an integer, a text or a tuple of texts"
        raise ConfigError(f"--config: {file}: ARGS: expected {expected}, got {shown(declared)}")
    return declared


def _usage(name: str, default: Any) -> str:
    """How an argument is written; "" where its default is of no kind that there is."""
    if isinstance(default, tuple) and default and all(isinstance(one, str) for one in default):
        return f"{name}={'|'.join(default)}"
    kinds = {bool: name, int: f"{name}=INTEGER", str: f"{name}=TEXT"}
    return "" if default is True else kinds.get(type(default), "")


def _values(arg: str, declared: Mapping[str, Any], file: str) -> dict[str, Any]:
    values = {name: default[0] if isinstance(default, tuple) else default for name, default in declared.items()}
    given: set[str] = set()
    for word in filter(None, arg.split(",")):
        name, sign, text = word.partition("=")
        default = declared.get(name)
        if name in given:
            raise ConfigError(f"--config: {file}: the argument {name} is given twice")
        given.add(name)
        if default is False and not sign:
            values[name] = True
        elif text and (isinstance(default, str) or (isinstance(default, tuple) and text in default)):
            values[name] = text
        elif type(default) is int and re.fullmatch("[0-9]{1,9}", text):
            values[name] = int(text)
        else:
            known = ", ".join(_usage(*item) for item in declared.items())
            raise ConfigError(f"--config: {file}: unknown argument {shown(word)}; known: {known or 'none'}")
    return values


def _run(spec: str) -> tuple[dict[str, Any], str, str]:
    """The names that the file of `FILE.py[:arg]` or `family/name[:arg]` defines, its path, and the argument."""
    written, _, arg = spec.partition(":")
    path = _path(written, "--config")
    with failures_reported(path, "--config"):
        return runpy.run_path(path), path, arg


def docstring(name: str, key: str) -> str:
    """What a config's file says of itself; it is not run. `key` names it, for an error.

    Raises:
      ConfigError: there is no such file, or it is no Python.
    """
    path = _path(name, key)
    with failures_reported(path, key):
        return ast.get_docstring(ast.parse(Path(path).read_text(), path)) or ""


def _path(name: str, key: str) -> str:
    """The path of a file, or of a config of gen_jax, such as `vae/digits`.

    Raises:
      ConfigError: there is none; the message has the nearest name, or the nearest file of this folder.
    """
    try:
        path = expand(name)
    except ValueError as error:
        raise ConfigError(f"{key}: {shown(name)}: {error}") from None
    if os.path.isfile(path):
        return path
    known = experiments()
    if name in known:
        return str(known[name])
    files = [str(file) for file in Path("experiments").glob("*/*.py")] if name.endswith(".py") else []
    raise ConfigError(f"{key}: no file {one_line(name)}{nearest(name, files or known)}")


def changed(config: dict[str, Any], values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of a config with values at keys such as `model.latent`; a dict is merged into the section there."""
    changed = copy.deepcopy(config)
    for key, value in values:
        section, names = changed, key.split(".")
        for i, name in enumerate(names[:-1]):
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise ConfigError(
                    f"config.{one_line(key)}: unknown key; config.{'.'.join(names[: i + 1])} is no section"
                )
        _merge(section, {names[-1]: value}, one_line(".".join(["config", *names[:-1]])))
    for key in ("optim", "evals"):  # a typo in the name of a network or an evaluator would be a new one
        known, found = config.get(key) or {}, changed.get(key) or {}
        for name in found.keys() - known.keys():
            if not (isinstance(found[name], dict) and "type" in found[name]):
                raise ConfigError(f"config.{key}.{one_line(name)}: unknown key{nearest(name, known)}")
    return changed


def _merge(section: dict[str, Any], values: dict[str, Any], key: str) -> None:
    for name, value in values.items():
        inner = section.get(name)
        if isinstance(value, dict) and isinstance(inner, dict):
            _merge(inner, value, f"{key}.{name}")
        elif isinstance(inner, dict):
            value = literal(value) if isinstance(value, Flag) else value
            raise ConfigError(f"{key}.{name}: expected a section, such as {{'key': value}}, got {shown(value)}")
        else:
            section[name] = value
