"""Puts `experiments/` into the wheel, as gen_jax/experiments; everything else is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

families = find_namespace_packages("experiments")
setup(
    packages=[*find_namespace_packages(include=["gen_jax*"]), *(f"gen_jax.experiments.{name}" for name in families)],
    package_dir={f"gen_jax.experiments.{name}": f"experiments/{name}" for name in families},
)
