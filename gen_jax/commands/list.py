"""`gen-jax list [models|data|evaluators|configs|optimizers] [NAME]`: the names that a config can use.

With a name, its fields: type, default and description. A model, a source or an evaluator of your own is listed by its
dotted path or its file, a config by its file.
"""

import argparse
import inspect
from types import ModuleType
from typing import Any

import gen_jax.models
from gen_jax import config, config_file, evaluators
from gen_jax.core import optim
from gen_jax.data import sources
from gen_jax.errors import ConfigError
from gen_jax.io import field_text, modules
from gen_jax.runs import tables
from gen_jax.settings import nearest, shown

KINDS = {
    "models": "config.model_name; its fields are those of config.model",
    "data": "config.data.source; its fields are those of config.data",
    "evaluators": "config.evals.NAME.type; its fields are those of config.evals.NAME",
    "configs": "--config=NAME[:arg]",
    "optimizers": "config.optim.NETWORK.name; its fields are those of config.optim.NETWORK",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=KINDS, help="default: all")
    parser.add_argument("name", nargs="?", help="one of them, whose fields are printed")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    if args.name is not None:
        print("\n".join(details(args.kind, args.name)))
        return
    for kind in [args.kind] if args.kind else KINDS:
        print(f"{kind} ({KINDS[kind]}):")
        print("\n".join(f"  {line}" for line in overview(kind)))


def overview(kind: str) -> list[str]:
    """A line for each name: what it is, and what it needs."""
    if kind == "configs":
        said = {name: config_file.docstring(name, kind) for name in config_file.experiments()}
        return _columns([(name, text.partition("\n")[0]) for name, text in said.items()])
    if kind == "optimizers":
        return _columns([(name, f"reads {', '.join(reads) or 'lr'}") for name, reads in optim.RULES.items()])
    found = []
    for name in modules.names(PACKAGES[kind]):
        module = _module(kind, name)
        needs = field_text.required(module.Config)
        said = (inspect.getdoc(module) or "").partition("\n")[0]
        found.append((name, f"{said} Needs {', '.join(needs)}." if needs else said))
    return _columns(found)


def details(kind: str, name: str) -> list[str]:
    """What a name is, and its fields.

    Raises:
      ConfigError: there is no such name; the message has the nearest.
    """
    if kind == "configs":
        return config_file.docstring(name, kind).splitlines()
    if kind == "optimizers":
        if name not in optim.RULES:
            raise ConfigError(f"{kind}: unknown name {shown(name)}{nearest(name, optim.RULES)}")
        others = {field for reads in optim.RULES.values() for field in reads} - optim.RULES[name].keys()
        defaults = {field: repr(value) for field, value in optim.RULES[name].items()}
        rows = [row for row in field_text.rows(optim.Config) if row.key not in others]
        return _fields([row._replace(default=defaults.get(row.key, row.default)) for row in rows])
    module = _module(kind, name)
    lines = [*(inspect.getdoc(module) or "").splitlines(), "", *_fields(list(field_text.rows(module.Config)))]
    sampling = getattr(module, "Sampling", None)
    return lines if sampling is None else [*lines, "", "sampling:", *_fields(list(field_text.rows(sampling)))]


PACKAGES: dict[str, ModuleType] = {"models": gen_jax.models, "data": sources, "evaluators": evaluators}


def _module(kind: str, name: str) -> Any:
    if kind == "models":
        return config.model_module(name, kind)
    return (sources if kind == "data" else evaluators).module(name, kind)


def _fields(rows: list[field_text.Row]) -> list[str]:
    """Key, type and default on one line, the description below it."""
    lines = []
    for row in rows:
        end = "required" if row.default == "required" else f"= {row.default}"
        lines += [f"{row.key}: {row.type}  {end}", *(f"    {line}" for line in row.description.splitlines())]
    return lines


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    return tables.aligned([list(row) for row in rows])
