"""Configuration of what happens to training documents that hold text of benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_at_least, check_choice

CONTAMINATION_ACTIONS = ("remove", "cut", "mark")
OF_CUT = {"context_characters": 200, "shortest_piece_characters": 200, "most_pieces": 10}
"""Settings that have an effect only with the action `cut`, as fingerprints have them where they have none: what their defaults
were when corpora first had such names. A new default would not change it."""


@dataclass(frozen=True)
class Contamination:
    """Benchmark texts to look for in training documents, and what to do where they are found.

    The defaults are GPT-3's (Brown et al. 2020, arXiv:2005.14165, appendix C).
    """

    texts: str
    """File or folder of benchmark texts, as `workbench benchmark-texts` writes them: each line of a `.jsonl` file has `task`
    and `text`, and `document` (its number in the task) where one benchmark document has several texts. The files'
    contents are part of the fingerprint, their place is not."""
    ngram: int = 13
    """Successive words that a training document and a benchmark text must have in common."""
    report_ngram: int = 8
    """Successive words by which the report calls a benchmark document dirty; at most `ngram`. It changes no training text."""
    action: str = "cut"
    """`remove` drops the training document; `cut` drops the passage with what is around it, and splits the document there;
    `mark` keeps and counts it."""
    min_words: int = 8
    """Words of the shortest benchmark text to look for; one of fewer than `ngram` words is looked for as a whole. Of documents
    with no text that long the report says that they cannot be checked. At most `report_ngram`."""
    context_characters: int = 200
    """`cut`: characters dropped on both sides of a passage; words are not split."""
    shortest_piece_characters: int = 200
    """`cut`: shorter pieces are dropped."""
    most_pieces: int = 10
    """`cut`: a document that would be split into more pieces is dropped."""
    ignore_above: int | None = 10
    """Passages that occur in more training documents than this are common phrases and no contamination; None takes all. The
    report ignores none. Dropped duplicates and held-out documents do not count: a passage on fifty equal pages counts once."""

    def __post_init__(self) -> None:
        """Refuse settings that can find nothing, or find what cannot be."""
        if not self.texts:
            raise ValueError(
                "contamination.texts='' names no benchmark texts: write them with `workbench benchmark-texts`"
            )
        check_choice("contamination action", self.action, CONTAMINATION_ACTIONS)
        check_at_least("contamination min_words", self.min_words, 1)
        if not self.min_words <= self.report_ngram <= self.ngram:
            raise ValueError(
                f"contamination needs min_words <= report_ngram <= ngram, not {self.min_words}, {self.report_ngram} "
                f"and {self.ngram}"
            )
        check_at_least("contamination context_characters", self.context_characters, 0)
        check_at_least("contamination shortest_piece_characters", self.shortest_piece_characters, 0)
        check_at_least("contamination most_pieces", self.most_pieces, 1)
        check_at_least("contamination ignore_above", self.ignore_above, 0)
