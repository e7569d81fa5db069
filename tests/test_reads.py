"""Each field of a model's `Sampling` changes what is drawn: none is ignored."""

import functools
import typing

import jax
import pytest
from members import MODELS, SMALLEST, smoke

from gen_jax.core.sampling import Continuation, Sampling
from gen_jax.errors import ConfigError
from gen_jax.models.base import Samples
from gen_jax.training.program import Program

OTHER = dict(temperature=0.5, top_k=2, top_p=0.5, min_p=0.1, repetition_penalty=2.0, label=1, length=7, min_length=2)
OTHER |= dict(prompts=((1, 2),), captions=((1, 2),), beams=2, length_penalty=1.0, end=3)


def other(cls, field):
    """A value of a field that is not its default."""
    if field in OTHER:
        return OTHER[field]
    kind, default = cls.model_fields[field].annotation, cls.model_fields[field].default
    if isinstance(default, str):
        return next(choice for choice in typing.get_args(kind) if choice != default)
    return not default if isinstance(default, bool) else (default or 0) + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_no_field_is_ignored(name):
    program = Program(smoke(SMALLEST[name], *(["data.source=tones"] if name == "wavenet" else [])))
    cls = type(program.experiment.sampling)
    if not isinstance(program.model, Samples):
        assert cls is Sampling
        return
    assert cls.model_fields

    def traced(**section):
        if "length" in cls.model_fields:
            section = {"length": 5, **section}
        options = program.prepared(program.sampling(section))
        if isinstance(options, Continuation) and "end" in cls.model_fields and options.end is None:
            options = options.model_copy(update={"end": 1})
        sample = functools.partial(program.model.sample, n=2, options=options)
        jaxpr = jax.make_jaxpr(sample)(program.shapes, jax.random.key(0))
        return f"{jaxpr} {jaxpr.consts}"

    for field in cls.model_fields:
        beside = {"beams": 2} if field == "length_penalty" else {}
        beside |= {"end": 1} if field == "min_length" and "end" in cls.model_fields else {}
        beside |= {"guidance": 2.0} if field.startswith("guided_") else {}
        value = other(cls, field)
        if field == "label" and not program.experiment.model.num_classes:
            with pytest.raises(ConfigError, match=r"^config\.sampling\.label: expected none; this model knows no"):
                program.sampling({"label": value})
        elif field == "captions" and not program.experiment.model.vocab:
            with pytest.raises(ConfigError, match=r"^config\.sampling\.captions: expected none; this model knows no"):
                program.sampling({"captions": value})
        else:
            assert traced(**beside) != traced(**beside, **{field: value}), field
