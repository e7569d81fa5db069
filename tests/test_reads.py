"""Which options of `sample` each model reads: those, and no others, change its program."""

import dataclasses
import functools

import jax
import pytest
from members import MODELS, SMALLEST, smoke

from gen_jax.core.sampling import SampleOptions
from gen_jax.models.base import Samples
from gen_jax.training.program import Program

OTHER = dict(temperature=0.5, top_k=2, top_p=0.5, min_p=0.1, repetition_penalty=2.0, label=1, length=7, min_length=2)
OTHER |= dict(prompts=((1, 2),), beams=2, length_penalty=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_reads_what_it_says(name):
    program = Program(smoke(SMALLEST[name], *(["data.source=tones"] if name == "wavenet" else [])))
    if not isinstance(program.model, Samples):
        return
    assert program.model.reads
    classes = getattr(program.experiment.model, "num_classes", 0)

    def traced(**options):
        options = {"length": 5, "end": 1 if "min_length" in program.model.reads else None, **options}
        sample = functools.partial(program.model.sample, n=2, options=SampleOptions(**options))
        jaxpr = jax.make_jaxpr(sample)(program.shapes, jax.random.key(0))
        return f"{jaxpr} {jaxpr.consts}"

    for field in (field.name for field in dataclasses.fields(SampleOptions) if field.name != "end"):
        beside = {"beams": 2} if field == "length_penalty" and "beams" in program.model.reads else {}
        reads = field in program.model.reads and (classes > 0 or field != "label")
        assert (traced(**beside) != traced(**beside, **{field: OTHER[field]})) == reads, field
