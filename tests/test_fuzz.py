"""Wrong flags of every config: each is one line that names the key, with exit code 2, at once."""

import random
import re
import time
import typing

import pytest

from gen_jax import config
from gen_jax.errors import ConfigError, RunError
from gen_jax.settings import Settings
from gen_jax.training import seeds

SPECS = [
    "experiments/vae/digits.py:smoke",
    "experiments/gan/digits_dcgan.py:smoke",
    "experiments/vaegan/images.py:smoke",
    "experiments/vqvae/images.py:smoke",
    "experiments/cyclegan/colours.py:smoke",
    "experiments/transformer/shakespeare_char.py",
    "experiments/lstm/markov.py:smoke",
    "experiments/encoder_decoder/reversal.py:smoke",
]
NUMBERS = ["nan", "inf", "-inf", "-1e400", "-" + 30 * "9", 30 * "9" + "." + 9 * "9" + "e30", "9" * 5000]
NO_NUMBERS = [
    "",
    "abc",
    "True",
    "a\nb",
    "\0",
    "x" * 20_000,
    "(" * 300,
    "{",
    "1j",
    "b'x'",
    "lambda: 1",
    "None.x",
    "\ud800",
]
NESTED = ["((((1,),),),)", "[[[]]]", "{'a': {'b': {}}}", "[{}]"]


def leaves(section: Settings, prefix: str = "config") -> list[tuple[str, typing.Any]]:
    """Every key of a config with the type of its field, or None for a section."""
    found = []
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{prefix}.{name}"
        sections = {key: value} if isinstance(value, Settings) else value if isinstance(value, dict) else {}
        if isinstance(value, dict):
            sections = {f"{key}.{inner}": v for inner, v in value.items() if isinstance(v, Settings)}
        for inner, part in sections.items():
            found += [(inner, None), *leaves(part, inner)]
        if not sections:
            found.append((key, field.annotation))
    return found


def wrong_values(annotation: typing.Any) -> list[str]:
    """Texts that no field of this type takes, whatever its range."""
    args = typing.get_args(annotation)
    if annotation is None:
        return ["5", "abc", "(1, 2)", "nan", "", "a\nb"]
    if typing.get_origin(annotation) is typing.Literal:
        return [*NUMBERS, *NO_NUMBERS, *NESTED]
    if annotation is bool:
        return [*NUMBERS, *NESTED, "2", "abc", ""]
    if annotation in (int, float):
        return [*NUMBERS, *NO_NUMBERS, *NESTED]
    if typing.get_origin(annotation) is tuple and not typing.get_args(args[0]) and args[0] in (int, float):
        return [*NUMBERS, *NO_NUMBERS, *NESTED, "(1, 'a')", f"({NUMBERS[0]},)", f"({10**30}, -{10**30})"]
    return ["{'a': 1}"] if annotation is str else []


def overrides(spec: str, random_: random.Random) -> typing.Iterator[tuple[str, str]]:
    """Endless wrong flags, as (the part of the key that a message must name, the flag)."""
    found = leaves(config.load(spec, []))
    while True:
        key, annotation = random_.choice(found)
        if random_.random() < 0.25 and not key.endswith(".nets"):  # whose names are free
            typo = random_.choice([f"{key}x", f"{key}.new", f"{key}.", key + "." * 50, f"{key}\n", key + "y" * 9_999])
            yield ".".join(key.split(".")[:-1]) or key, f"--{typo}=1"
        elif values := wrong_values(annotation):
            yield key, f"--{key}={random_.choice(values)}"


def refuse(spec: str, named: str, flag: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.load(spec, [flag])
    said = str(error.value)
    assert error.value.code == 2
    assert len(said.splitlines()) == 1, said
    assert len(said) < 1_000, said
    assert named in said, (named, said)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("n", [12, pytest.param(150, marks=pytest.mark.slow)])
def test_wrong_overrides_are_one_line(spec, n):
    flags = overrides(spec, random.Random(f"{spec} {n}"))
    began = time.thread_time()  # work, which does not grow on a busy machine
    for named, flag in (next(flags) for _ in range(n)):
        refuse(spec, named, flag)
    assert time.thread_time() - began < n, "more than 1 s each"


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_huge_sizes_end_in_one_line_or_are_taken(spec):
    """Whatever a whole number sizes: what does not fit is refused from shapes alone, before memory is asked for."""
    for key, annotation in leaves(config.load(spec, ["--config.mesh.data=1"])):
        if not re.search(r"\bint\b", str(annotation)) or key == "config.mesh.data":
            continue
        for size in (10**12, 10**8):
            value = f"({size},)" if "tuple" in str(annotation) else size
            try:
                seeds.make(config.load(spec, ["--config.mesh.data=1", f"--{key}={value}"])).check()
            except RunError as error:
                assert error.code in (2, 5) and len(str(error).splitlines()) == 1, (key, size, error)
