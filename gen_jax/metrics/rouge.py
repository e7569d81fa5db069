"""ROUGE of summaries (Lin 2004), as the package rouge-score computes it."""


def rouge(hypotheses: list[str], references: list[str]) -> dict[str, float]:
    """`rouge_1`, `rouge_2`, `rouge_l`: F-measures, 0 to 1, each the mean over the pairs.

    Words in common (1), pairs of neighbouring words in common (2), and the longest common subsequence of words (L, over
    the whole text). Words are lower-cased runs of a-z and 0-9, stemmed (Porter), as in published numbers; so texts in
    other scripts score 0.

    Args:
      hypotheses, references: texts in the same order, one reference each.

    Raises ValueError if there is no text or not one reference for each.
    """
    from rouge_score import rouge_scorer  # 1.3 s: it imports nltk

    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"rouge: expected as many references as hypotheses, got {len(references)}, {len(hypotheses)}")
    kinds = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scorer = rouge_scorer.RougeScorer(list(kinds.values()), use_stemmer=True)
    scores = [scorer.score(reference, text) for text, reference in zip(hypotheses, references, strict=True)]
    return {name: sum(score[kind].fmeasure for score in scores) / len(scores) for name, kind in kinds.items()}
