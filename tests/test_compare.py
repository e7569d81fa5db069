"""The table of one metric of several runs."""

import json

import pytest

from gen_jax import cli
from gen_jax.runs import metric_tags


def runs(tmp_path, *tags: str):
    for i, tag in enumerate(tags):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "config.json").write_text("{}")
        rows = [{"step": 1, tag: 9.0}, {"step": 2, tag: 1.5 + i, "train/loss": 0.1}, {"step": 3, "train/loss": 0.1}]
        (tmp_path / str(i) / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(tmp_path / str(i)) for i in range(len(tags))]


def test_compare_prints_a_table_of_like_numbers(tmp_path, capsys):
    tag = metric_tags.tag("test/fid", n_real=10, features="classifier-ab")
    cli.main(["compare", "--metric=test/fid", *runs(tmp_path, tag, tag)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "step", tag] and [line.split()[-2:] for line in lines[1:]] == [
        ["2", "1.5"],
        ["2", "2.5"],
    ]


def test_compare_takes_the_newest_of_several_evaluations_of_a_step(tmp_path, capsys):
    (path,) = runs(tmp_path, "test/fid")
    (tmp_path / "0" / "eval").mkdir()
    rows = [{"step": 2, "test/fid": 7.0}, {"step": 1, "test/fid": 3.0}, {"step": 2, "test/fid": 8.0}]
    (tmp_path / "0" / "eval" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli.main(["compare", "--metric=test/fid", path])
    assert capsys.readouterr().out.split()[-2:] == ["2", "8"]


def test_compare_refuses_unlike_numbers(tmp_path, capsys):
    tags = [metric_tags.tag("test/fid", n_real=10, features=f"classifier-{name}") for name in ("ab", "cd")]
    paths = runs(tmp_path, *tags)
    for argv, line in (
        (["compare", "--metric=test/fid", *paths], "features classifier-ab, classifier-cd"),
        (["compare", "--metric=test/kid", *paths], "has no test/kid"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(argv)
        error = capsys.readouterr().err
        assert caught.value.code == 2 and line in error and error.count("\n") == 1
