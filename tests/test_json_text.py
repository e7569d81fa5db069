"""JSON as it is written, but for what no reader of it could walk through."""

import json

import pytest

from gen_jax.io.json_text import DEEPEST, loads


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null, "x"], "b": {}}', "[]", "3", '"["', "[[[[]]], [1]]"])
def test_what_is_written_is_read(text):

    assert loads(text) == loads(text.encode()) == json.loads(text)


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a": ', "}"), ('[1, {"a": ', "}]")])
def test_what_is_nested_too_deeply_is_refused(begin, end):
    levels = (begin + end).count("]") + (begin + end).count("}")
    most = DEEPEST // levels
    assert loads(begin * most + "1" + end * most)
    for more in (most + 1, 980, 10**5):
        with pytest.raises(ValueError, match=r"^found JSON that is nested too deeply$"):
            loads(begin * more + "1" + end * more)
