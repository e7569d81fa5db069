"""The section that picks a feature function."""

from collections.abc import Callable
from typing import Any, Literal

import pydantic

from gen_jax.errors import ConfigError
from gen_jax.features import Features, classifier, inception
from gen_jax.settings import Settings, UserPath


class Config(Settings):
    """The network that gives the features."""

    name: Literal["classifier", "inception"] = "classifier"
    """`classifier`, trained on the data set itself by `recipe`, or `inception`, which FID is named after."""
    recipe: classifier.Recipe = classifier.Recipe()
    """Training of the classifier."""
    weights: UserPath = ""
    """Weights of `inception`: a safetensors file or its https address."""
    sha256: str = ""
    """sha256 of that file, required with an address."""

    @pydantic.model_validator(mode="after")
    def _weights(self) -> "Config":
        if (self.name == "inception") != bool(self.weights):
            raise ValueError("weights: expected a file beside name='inception', and nothing beside 'classifier'")
        if "://" in self.weights and not self.weights.startswith("https://"):
            raise ValueError("weights: expected a file or an https address")
        if "://" in self.weights and not self.sha256:
            raise ValueError("sha256: expected the file's, for weights from an https address")
        return self


def choose(cfg: Config, info: Any, split: Callable[[str], classifier.Split], test: str, poll: Callable) -> Features:
    """The feature function that `cfg` asks for.

    Args:
      info: of the data set.
      split: its images and labels; read only where a classifier is trained.
      test: the split that the classifier's accuracy is stated on.

    Raises:
      ConfigError: a classifier is asked for and there are no labels, or the file of weights is not there or another.
      CheckpointError: the file of weights does not fit.
    """
    if cfg.name == "inception":
        return inception.features(cfg.weights, cfg.sha256)
    if not info.num_classes:
        raise ConfigError("evals: features.name: expected inception for data without labels")
    return classifier.features(cfg.recipe, info.num_classes, lambda: split("train"), lambda: split(test), poll)
