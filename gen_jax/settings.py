"""The base of every typed section of a config: unknown keys, wrong types and wrong ranges are refused.

A model, a data source and an evaluator each declare one `Config(Settings)` beside their code; the field
defaults there are the only defaults, and the constraint on a field (`Positive`, `Literal[...]`) is what its
error message says was expected.
"""

from typing import Annotated

import pydantic
from pydantic import Field

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Settings(pydantic.BaseModel):
    """A frozen, validated section of a config."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
