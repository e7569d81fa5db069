"""Data sets by the section `config.data`: `parse` it, `load` it; and what `gen-jax data` does with them."""

from gen_jax.data.source import Dataset, Feed, Info, Source
from gen_jax.data.sources import list_sources, load, parse
from gen_jax.data.tools import describe, list_prepared, look, prepare, resolve

__all__ = [
    "Dataset",
    "Feed",
    "Info",
    "Source",
    "describe",
    "list_prepared",
    "list_sources",
    "load",
    "look",
    "parse",
    "prepare",
    "resolve",
]
