"""How varied texts are: numbers that fall or rise when a language model collapses."""

import re
from collections.abc import Hashable, Iterator, Sequence

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Chinese characters stand alone
WORD = re.compile(rf"[{CJK}]|(?:(?![{CJK}])\w)+|[^\w\s]")


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores; each Chinese character, kana or other visible character by itself."""
    return WORD.findall(text)


def grams(text: Sequence[Hashable], n: int) -> Iterator[tuple[Hashable, ...]]:
    """The len(text) - n + 1 strings of n neighbours, in order."""
    return zip(*(text[i:] for i in range(n)), strict=False)


def distinct(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """Different n-grams over all n-grams, counted over all texts together (Li et al. 2016); 0 where there are none.

    It falls with the amount of text: compare equal amounts.
    """
    found = [gram for text in texts for gram in grams(text, n)]
    return len(set(found)) / max(len(found), 1)


def repetition(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """The share of n-grams that repeat an earlier one of the same text, over all texts; 0 where there are none.

    1 - |different n-grams| / |n-grams| of a text is seq-rep-n of Welleck et al. 2020, eq. 10; here the counts of all
    texts are added before they are divided. It rises with the length of the texts.
    """
    found = [list(grams(text, n)) for text in texts]
    total = sum(map(len, found))
    return 1 - sum(len(set(one)) for one in found) / total if total else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """Mean over the texts of BLEU-4 with all the others as references (Zhu et al. 2018), 0 to 100; 100 = all alike.

    sacrebleu's sentence BLEU over `words`, upper and lower case differ; exponential smoothing, effective order.

    Raises ValueError for fewer than 2 texts.
    """
    import sacrebleu  # not at start: few commands need it

    if len(texts) < 2:
        raise ValueError(f"self_bleu: expected at least 2 texts, got {len(texts)}")
    metric = sacrebleu.BLEU(tokenize="none", effective_order=True, force=True)
    spaced = [" ".join(words(text)) for text in texts]
    scores = [metric.sentence_score(one, spaced[:i] + spaced[i + 1 :]).score for i, one in enumerate(spaced)]
    return sum(scores) / len(scores)
