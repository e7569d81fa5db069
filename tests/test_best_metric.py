"""Best checkpoints by a metric whose tag says how it was measured: named without it, refused when it changes."""

import pytest

from gen_jax.config import Best
from gen_jax.errors import ConfigError
from gen_jax.runs import metric_tags
from gen_jax.training.journal import Journal


def judge(journal, metric, scalars, mode="min", step=10):
    """Whether an evaluation with these scalars has the best `metric` so far."""
    journal.judge(Best(metric=metric, mode=mode), scalars, step)
    return journal.worse == 0


def test_a_name_without_its_facts_finds_the_tag():
    journal, tag = Journal(), metric_tags.tag("val/fid", n_fake=10, features="classifier-ab")
    assert judge(journal, "val/fid", {tag: 5.0, metric_tags.tag("val/fid_floor", n_fake=10): 1.0})
    assert (journal.best, journal.best_tag) == (5.0, tag)
    assert not judge(journal, "val/fid", {tag: 6.0}) and judge(journal, "val/fid", {tag: 4.0})


def test_another_protocol_is_refused_on_resume():
    journal, other = Journal(), metric_tags.tag("val/fid", n_fake=10, features="classifier-cd")
    judge(journal, "val/fid", {metric_tags.tag("val/fid", n_fake=10, features="classifier-ab"): 5.0})
    with pytest.raises(ConfigError, match=r"config\.best\.metric: .*: features classifier-ab, classifier-cd"):
        judge(journal, "val/fid", {other: 4.0})
    assert journal.best == 5.0
    journal.forget_another_best(Best(metric="val/fid"))
    assert journal.best == 5.0
    journal.forget_another_best(Best(metric=other))  # as the message says
    assert judge(journal, other, {other: 6.0}) and (journal.best, journal.best_tag) == (6.0, other)


@pytest.mark.parametrize("other", [Best(metric="val/loss", mode="max"), Best(metric="val/elbo"), Best()])
def test_nothing_is_the_best_yet_of_another_metric_or_mode(other):
    journal = Journal()
    judge(journal, "val/loss", {"val/loss": 5.0}, step=3)
    judge(journal, "val/loss", {"val/loss": 6.0}, step=4)
    journal.forget_another_best(Best(metric="val/loss"))
    assert (journal.best, journal.best_step, journal.worse) == (5.0, 3, 1)
    journal.forget_another_best(other)
    assert (journal.best, journal.best_step, journal.worse) == (None, None, 0)


def test_an_ambiguous_or_unknown_name_is_refused():
    tags = {metric_tags.tag("val/fid", n_fake=n): 1.0 for n in (10, 20)}
    with pytest.raises(ConfigError, match=r"expected one of val/fid@n_fake=10, val/fid@n_fake=20"):
        judge(Journal(), "val/fid", tags)
    assert judge(Journal(), "val/fid@n_fake=10", tags)
    with pytest.raises(ConfigError, match="expected one of val/loss"):
        judge(Journal(), "val/fid", {"val/loss": 1.0})


def test_facts_survive_the_tag():
    tag = metric_tags.tag("val/kid", n_real=3, subsets="100x1000")
    assert metric_tags.name_of(tag) == "val/kid"
    assert metric_tags.facts_of(tag) == {"n_real": "3", "subsets": "100x1000"}
    assert metric_tags.difference(tag, tag) == "" and metric_tags.facts_of("val/loss") == {}
    assert metric_tags.difference(tag, "val/kid") == "n_real 3, absent; subsets 100x1000, absent"
