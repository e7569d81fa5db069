"""Corpus BLEU of translations (Papineni et al. 2002), as sacrebleu computes it (Post 2018)."""


def bleu(hypotheses: list[str], references: list[str]) -> tuple[float, str]:
    """BLEU-4 over all sentences together, 0 to 100, and sacrebleu's signature, which says how it was computed.

    Args:
      hypotheses, references: plain (detokenised) sentences in the same order, one reference each; sacrebleu's own
        tokeniser `13a` splits them, upper and lower case differ.

    Raises ValueError if there is no sentence or not one reference for each.
    """
    import sacrebleu  # not at start: few commands need it

    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"bleu: expected as many references as hypotheses, got {len(references)}, {len(hypotheses)}")
    metric = sacrebleu.BLEU(tokenize="13a")
    score = metric.corpus_score(hypotheses, [references]).score
    return score, str(metric.get_signature())
