"""Records of text, one a line: what is in the rows, and the exact nats of each."""

import jax
import numpy as np
import pytest
from members import ROOT
from name_lists import NameChain

from gen_jax import cli, config, data
from gen_jax.data import tools, utf8
from gen_jax.data.sources import names
from gen_jax.errors import ConfigError, DataError
from gen_jax.metrics.ngram import NGram, apart
from gen_jax.models import lstm as lstm_model
from gen_jax.runs.metric_tags import name_of
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train
from gen_jax.training.program import Program

RECORDS = ["anna", "Zoë", " bo ", "anna", "Jürgen", "eve", "x", "ƒ", "lou", "max", "ida", "noa"]


@pytest.fixture
def file(tmp_path):
    """The records with every kind of line end, and blank lines between."""
    path = tmp_path / "names.txt"
    ends = ["\n", "\r\n", "\r", "\n\n", "\n \t\r\n"]
    path.write_bytes("".join(f"{one}{ends[i % 5]}" for i, one in enumerate(RECORDS)).encode())
    return path


def load(path, **fields):
    section = dict(source="text_file", path=str(path), documents="lines", context=9, validation=0.25, test=0.25)
    return data.load(data.parse(section | fields), seed=3)


def texts(dataset, split):
    """The records of a split, read back from rows whose layout is checked."""
    found, end = [], dataset.info.end
    feed = dataset.eval_feed(split, 5)
    for step in range(feed.num_batches):
        batch = feed.assemble({}, feed.rows(step))
        for tokens, mask in zip(batch["tokens"][batch["valid"]], batch["mask"][batch["valid"]], strict=True):
            n = int(mask.sum()) - 1
            assert mask.tolist() == [1.0] * (n + 1) + [0.0] * (len(mask) - n - 1)
            assert tokens[0] == tokens[n + 1] == end and (tokens[1 : n + 1] != end).all()
            found.append(dataset.tokenizer.decode(tokens[1 : n + 1]))
    return found


@pytest.mark.parametrize("section", [{}, {"tokenizer": "char"}, {"tokenizer": "bpe", "vocab_size": 260}])
def test_each_record_is_in_one_split_as_it_is(file, section, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path / "cache"))
    dataset = load(file, **section)
    found = {split: texts(dataset, split) for split in ("train", "validation", "test")}
    assert dataset.sizes == {split: len(part) for split, part in found.items()} == dict(train=6, validation=3, test=3)
    assert sorted(one for part in found.values() for one in part) == sorted(RECORDS)
    assert texts(dataset, "validation+test") == found["validation"] + found["test"]
    other = load(file, split_seed=1, **section)
    assert set(texts(other, "test")) != set(found["test"])
    longest = max(len(dataset.tokenizer.encode(one)) for one in RECORDS)
    assert dataset.info.shape == (longest + 2,) and dataset.info.records
    shared = [sum(one in found["train"] for one in found[split]) for split in ("validation", "test")]
    facts = f"{shared[0]} of validation also occur in train; {shared[1]} of test also occur in train"
    line = capsys.readouterr().err.splitlines()[0]
    assert line == f"data: records: train 6, validation 3, test 3; skipped: 4 blank lines; {facts}"


def test_splits_of_files_stay_and_the_missing_one_is_cut(tmp_path, capsys):
    for name, lines in (("train", [f"t{i}" for i in range(10)]), ("test", ["t1", "u"])):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    dataset = load(tmp_path)
    assert texts(dataset, "test") == ["t1", "u"]
    assert sorted(texts(dataset, "train") + texts(dataset, "validation")) == sorted(f"t{i}" for i in range(10))
    assert dataset.sizes == dict(train=8, validation=2, test=2)
    assert f"{int('t1' in texts(dataset, 'train'))} of test also occur in train" in capsys.readouterr().err


def test_an_epoch_of_training_has_each_record_once(file):
    dataset = load(file)
    feed = dataset.train_feed(3)
    epochs = [[feed.rows(step)["tokens"] for step in steps] for steps in ((0, 1), (2, 3))]
    read = [[dataset.tokenizer.decode(row) for rows in epoch for row in rows] for epoch in epochs]
    assert sorted(read[0]) == sorted(read[1]) == sorted(texts(dataset, "train"))
    assert read[0] != read[1]
    np.testing.assert_array_equal(feed.rows(1, slice(1, 3))["tokens"], feed.rows(1)["tokens"][1:3])
    assert not np.array_equal(dataset.with_seed(4).train_feed(6).rows(0)["tokens"], np.concatenate(epochs[0]))


def test_long_records_are_left_out_of_training_and_refused_elsewhere(tmp_path, capsys):
    for split, lines in (("train", ["abc", "abcd", "a"]), ("validation", ["ab"]), ("test", ["abc"])):
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    dataset = load(tmp_path, context=4)
    assert texts(dataset, "train") == ["abc", "a"] and dataset.info.shape == (5,)
    assert "1 of 3 training records exceed 4 tokens: left out" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"config\.data\.context: expected at least 4, .* longest test record"):
        load(tmp_path, context=3)
    with pytest.raises(ConfigError, match=r"config\.data\.context: expected at least 2, .* shortest training record"):
        load(tmp_path, context=1)


def test_wrong_input_is_one_line(tmp_path, file):
    section = dict(source="text_file", path="x", documents="lines")
    assert data.parse(section).order == "permuted"
    with pytest.raises(ConfigError, match=r"config\.data\.order: expected 'permuted' for .*'lines', got 'windows'"):
        data.parse(section | {"order": "windows"})
    (tmp_path / "blank.txt").write_text(" \n\n")
    with pytest.raises(DataError, match="expected a record a line, found none for train"):
        load(tmp_path / "blank.txt")
    (tmp_path / "two.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="2 examples are too few to cut off"):
        load(tmp_path / "two.txt")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data", "tokenize", f"--path={file}", f"--out={tmp_path / 'out'}", "--documents=lines"])
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()


def experiment(path, *flags):
    flags = ("data.validation=0.25", "data.test=0.25", "evals.text.n=3", "eval_batch_size=4", *flags)
    flags = [f"--config.{flag}" for flag in (f"data.path={path}", "mesh.data=1", "total_steps=2", *flags)]
    return config.load("experiments/transformer/lines.py:smoke", flags)


def test_nats_are_those_of_each_record_alone_at_any_batch_size(file):
    program = Program(experiment(file))
    state, tokenizer, end = program.init(), program.dataset.tokenizer, program.dataset.info.end
    logits = jax.jit(program.model.logits)

    def log_prob(text):
        """Of one record without padding: the sum over its tokens and its end."""
        tokens = np.array([[end, *tokenizer.encode(text).tolist(), end]], np.int32)
        logs = jax.device_get(jax.nn.log_softmax(logits(state, {"tokens": tokens})))[0]
        return float(logs[np.arange(tokens.shape[1] - 1), tokens[0, 1:]].sum())

    records = texts(program.dataset, "test")
    total = -sum(map(log_prob, records))
    characters = sum(len(one) + 1 for one in records)
    size = sum(len(one.encode()) + 1 for one in records)
    expected = dict(nats_per_record=total / len(records), nats_per_token=total / size, loss=total / size)
    expected |= dict(nats_per_character=total / characters, bits_per_byte=total / size / np.log(2))
    assert size > characters and len(records) == 3
    for other in (program, Program(experiment(file, "eval_batch_size=2"))):
        found = other.evaluators["test"](state).scalars
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_an_n_gram_model_of_records_sees_each_by_itself(file):
    flags = ("evals.ngram.type=ngram", "evals.ngram.split=test", "evals.ngram.order=3")
    program = Program(experiment(file, *flags))
    records = {split: texts(program.dataset, split) for split in ("train", "test")}
    end = program.dataset.info.end
    flat = [np.array([i for one in records[s] for i in (*one.encode(), end)]) for s in ("train", "test")]
    (train, counts), (tokens, counted) = (apart(part, end, 3) for part in flat)
    p = NGram.fit(train, 3, program.dataset.info.vocab_size, counts).probabilities(tokens)[counted]
    found = program.evaluators["ngram"](program.init()).scalars
    assert found == {"ngram_3_bits_per_byte": pytest.approx(-np.log2(p).sum() / len(flat[1]), rel=1e-9)}


def test_samples_are_one_a_line(file):
    program = Program(experiment(file, "evals.text.sampling.prompts=an", "evals.text.alarm_n=2"))
    report = program.evaluators["text"](program.init())
    lines = report.texts["samples"].split("```text\n")[1].removesuffix("\n```").split("\n")
    assert all(line.startswith("an") for line in lines[:1]) and "Prompt" not in report.texts["samples"]
    assert {"self_bleu", "real_self_bleu"} <= {name_of(tag) for tag in report.scalars}


def test_a_look_at_records_is_one_a_line(file):
    dataset, shown = tools.look(dict(source="names", path=str(file), context=9), "test", 2)
    assert shown == "\n".join(texts(dataset, "test")[:2])


def test_a_recurrent_model_starts_at_the_end_token(file, tmp_path):
    lstm = tmp_path / "lstm.py"
    lstm.write_text(
        f"""import runpy, types
def get_config(arg=""):
    c = runpy.run_path({str(ROOT / "experiments/lstm/pydoc.py")!r})["get_config"](types.SimpleNamespace(smoke=True))
    c.data = dict(source="names", path={str(file)!r})
    c.model.vocab, c.mesh = 257, dict(data=1)
    return c
"""
    )
    with pytest.raises(ConfigError, match=r"config\.model\.start: expected 256, the token before each record, got 10"):
        Program(config.load(str(lstm), []))
    model = Program(config.load(str(lstm), ["--config.model.start=256"])).model
    assert model.prompts(lstm_model.Sampling(end=256, prompts=((97,),)), 1)[0].tolist() == [[256, 97]]
    assert model.prompts(lstm_model.Sampling(prompts=((97,),)), 1)[0].tolist() == [[97]]


def test_the_embedded_names_are_those_of_the_library():
    found = names.embedded()
    assert {"Path", "namedtuple", "urlopen"} <= set(found)
    assert 5_000 < len(found) == len(set(found)) and found == sorted(found)
    assert max(map(len, found)) == names.LONGEST and all(utf8.lines(one) == [one] for one in found)


def test_the_chain_of_names_has_its_entropy():
    chain = NameChain()
    np.testing.assert_allclose(chain.probs[:-1].sum(axis=-1), 1)
    drawn = chain.draw(3_000)
    nats = -sum(map(chain.log_prob, drawn)) / sum(len(one) + 1 for one in drawn)
    assert nats == pytest.approx(chain.entropy, abs=0.02)


@pytest.mark.slow
def test_a_short_run_lies_between_the_entropy_and_that_of_single_letters(tmp_path):
    chain = NameChain()
    (tmp_path / "names.txt").write_text(text := "\n".join(chain.draw(8_000)))
    share = np.unique(list(text), return_counts=True)[1] / len(text)
    single = -float((share * np.log(share)).sum())  # the line ends are the ends of names
    small = ("mesh.data=1", "model.layers=1", "batch_size=32", "total_steps=200", "eval_every=200", "save_every=200")
    flags = [f"--config.{flag}" for flag in (f"data.path={tmp_path / 'names.txt'}", *small)]
    train(config.load("experiments/transformer/lines.py", flags), tmp_path / "run")
    last = RunDir(tmp_path / "run").rows()[-1]
    assert chain.entropy < last["test/nats_per_character"] < single
    assert last["test/nats_per_character"] == pytest.approx(last["test/loss"])  # ASCII: a byte is a character
