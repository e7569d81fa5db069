"""Best checkpoints by a metric whose tag says how it was measured: named without it, refused when it changes."""

import types

import pytest

from gen_jax import protocol
from gen_jax.config import Best
from gen_jax.errors import ConfigError
from gen_jax.loop import Journal, Loop


def loop(metric: str):
    """A loop of which only the judging is alive."""
    experiment = types.SimpleNamespace(best=Best(metric=metric))
    return types.SimpleNamespace(experiment=experiment, journal=Journal(), step=10)


def judge(loop, scalars):
    return Loop._judge(loop, scalars)


def test_a_name_without_its_facts_finds_the_tag():
    one, tag = loop("test/fid"), protocol.tag("test/fid", n_fake=10, features="classifier-ab")
    assert judge(one, {tag: 5.0, protocol.tag("test/fid_floor", n_fake=10): 1.0})
    assert (one.journal.best, one.journal.best_tag) == (5.0, tag)
    assert not judge(one, {tag: 6.0}) and judge(one, {tag: 4.0})


def test_another_protocol_is_refused_on_resume():
    one = loop("test/fid")
    judge(one, {protocol.tag("test/fid", n_fake=10, features="classifier-ab"): 5.0})
    with pytest.raises(ConfigError, match=r"config\.best\.metric: .*: features classifier-ab, classifier-cd"):
        judge(one, {protocol.tag("test/fid", n_fake=10, features="classifier-cd"): 4.0})
    assert one.journal.best == 5.0


def test_an_ambiguous_or_unknown_name_is_refused():
    tags = {protocol.tag("test/fid", n_fake=n): 1.0 for n in (10, 20)}
    with pytest.raises(ConfigError, match=r"expected one of test/fid@n_fake=10, test/fid@n_fake=20"):
        judge(loop("test/fid"), tags)
    assert judge(loop("test/fid@n_fake=10"), tags)
    with pytest.raises(ConfigError, match="expected one of test/loss"):
        judge(loop("test/fid"), {"test/loss": 1.0})


def test_facts_survive_the_tag():
    tag = protocol.tag("test/kid", n_real=3, subsets="100x1000")
    assert protocol.name_of(tag) == "test/kid"
    assert protocol.facts_of(tag) == {"n_real": "3", "subsets": "100x1000"}
    assert protocol.difference(tag, tag) == "" and protocol.facts_of("test/loss") == {}
    assert protocol.difference(tag, "test/kid") == "n_real 3, absent; subsets 100x1000, absent"
