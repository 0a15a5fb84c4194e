"""Each rule of quality: a document that just passes, one that just fails, and the vectorised rules beside plain ones."""

import random
from collections import Counter

import pytest

from workbench.config.plain import from_dict
from workbench.config.schema.quality_thresholds import (
    C4Thresholds,
    FineWebThresholds,
    GopherRepetitionThresholds,
    GopherThresholds,
    QualitySettings,
)
from workbench.data.corpus.quality_rules import RULES, Breach, breaches, c4, causes, fineweb, gopher, gopher_repetition

LOOSE = {
    gopher: GopherThresholds(**{name: None for name in vars(GopherThresholds()) if name != "stop_words"}),
    gopher_repetition: GopherRepetitionThresholds(**dict.fromkeys(vars(GopherRepetitionThresholds()))),
    c4: C4Thresholds(False, None, None, False, False, False, None, False, False),
    fineweb: FineWebThresholds(None, None, 30, None, None),
}
"""Every threshold off."""


def words(count, word="word"):
    return " ".join([word] * count)


def distinct(count, start=0):
    return " ".join(f"word{number:04d}" for number in range(start, start + count))


def lines(*counts_and_lines):
    return "\n".join(line for count, line in counts_and_lines for _ in range(count))


SENTENCES = "One is here. Two is here! Three is here? Four is 'here.' Five is here."
CASES = [
    (gopher, "min_words", words(50), words(49), 49),
    (gopher, "min_words", words(50) + " - ,", words(49) + " - , ...", 49),  # punctuation alone is no word
    (gopher, "max_words", words(100_000), words(100_001), 100_001),
    (gopher, "min_mean_word_length", "ab abcd --", "ab abc abc ---------- (a", 2.5),
    (gopher, "max_mean_word_length", "a" * 9 + " " + "ä" * 11, "a" * 10 + " " + "a" * 11, 10.5),
    (gopher, "max_hashes_per_word", words(19) + " ##", words(19) + " ###", 0.15),
    (gopher, "max_ellipses_per_word", words(18) + " a... b…", words(17) + " a... b… c…", 0.15),
    (gopher, "max_bullet_lines", lines((9, "  - a"), (1, "a")), lines((19, "• a"), (1, "a")), 0.95),
    (gopher, "max_bullet_lines", lines((1, ""), (9, "- a")), lines((10, "- a")), 1.0),  # an empty line is a line
    (gopher, "max_ellipsis_lines", lines((3, "a... "), (7, "a")), lines((2, "a…"), (2, "a..."), (6, "a")), 0.4),
    (gopher, "min_alphabetic_words", "a b é 4d 55", "a b c 44 55", 0.6),
    (gopher, "min_stop_words", "the dog, and that", "The other, the THE", 1),  # each once, in lower case only
    (gopher, "min_stop_words", "(the) end of.", "then the offer", 1),
    (gopher_repetition, "max_duplicate_lines", lines((4, "a"), (1, "b"), (5, "")) + "\nc\nd\ne\nf\ng",
     "a\na\na\na\na\nb\nc\nd\ne\nf", 0.4),
    (gopher_repetition, "max_duplicate_lines", "\n\na\na\nb\nc\n\n", "a\na\nb\n", 1 / 3),  # empty lines do not count
    (gopher_repetition, "max_duplicate_paragraphs", "a\na\n\na\n\nb\n\na", "a\n\na\n\n\nb", 1 / 3),
    (gopher_repetition, "max_duplicate_line_characters", "ab\nab\n" + "c" * 4, "ab\nab\n" + "c" * 3, 2 / 9),
    (gopher_repetition, "max_duplicate_paragraph_characters", "ab\n\nab\n\nxx", "ab\n\nab\n\nx", 2 / 9),
    # The most frequent pair "aa bb" has 5 characters with its space, and stands there twice.
    (gopher_repetition, "max_top_2_gram", "aa bb aa bb " + "x" * 38, "aa bb aa bb " + "x" * 37, 10 / 49),
    (gopher_repetition, "max_top_3_gram", "a b c a b c " + "x" * 44, "a b c a b c " + "x" * 43, 10 / 55),
    (gopher_repetition, "max_top_4_gram", "a b c d a b c d " + "x" * 72, "a b c d a b c d " + "x" * 71, 14 / 87),
    # The pair that occurs first counts of several that occur as often: "a b", not "ccc ddd".
    (gopher_repetition, "max_top_2_gram", "a b a b c ccc ddd ccc ddd " + "x" * 4, "ccc ddd ccc ddd a b a b " + "x" * 4,
     14 / 28),
    # Of six equal words, two lots of five begin anew: 5-grams at 0 (new), 1 to 5 (counted), then none is whole.
    (gopher_repetition, "max_duplicate_5_grams", "a a a a a a " + "x" * 22, "a a a a a a " + "x" * 21, 5 / 33),
    *[
        (gopher_repetition, f"max_duplicate_{n}_grams", f"{distinct(n)} {distinct(n)} {'x' * (fits - 18 * n)}",
         f"{distinct(n)} {distinct(n)} {'x' * (fits - 18 * n - 1)}", 8 * n / (fits - 1))
        for n, fits in [(5, 267), (6, 343), (7, 431), (8, 534), (9, 655), (10, 800)]
    ],
    (c4, "lorem_ipsum", "Lorem, ipsum", "a\nLOREM ipsum", 1),
    (c4, "curly_bracket", "a }", "a\n{", 1),
    (c4, "min_sentences", SENTENCES, SENTENCES.replace("Five", "five").replace("here? Four", "here, four"), 4),
    (c4, "min_sentences", "a. b\nc\nd\ne", "a.b\nc\nd\ne", 4),  # the end of a line ends a sentence
    (fineweb, "min_terminal_lines", lines((13, "a."), (87, "b")), lines((12, "a."), (88, "b")), 0.12),
    (fineweb, "min_terminal_lines", lines((13, "a。 "), (87, "b"), (9, " ")), lines((12, "a!"), (88, 'b."')), 0.12),
    (fineweb, "max_short_lines", lines((66, "a" * 29), (34, "a" * 30)), lines((67, "a" * 29), (33, "a" * 30)), 0.67),
    (fineweb, "max_duplicate_line_characters", "ab\nab\n" + "c" * 17, "ab\nab\n" + "c" * 16, 0.1),
    (fineweb, "max_newlines_per_word", "a b c d e f g h i j\n\n\n", "a b c d e f g h i j\n\n\n\n", 0.4),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "name", "passes", "fails", "value"), CASES)
def test_threshold(rule, name, passes, fails, value):
    """With all other thresholds off, and in one batch with other documents."""
    limits = type(LOOSE[rule])(**(vars(LOOSE[rule]) | {name: getattr(type(LOOSE[rule])(), name)}))
    cause = f"{rule.__name__.split('.')[-1]}_{name}"
    found = rule.breaches(limits, ["", passes, fails, "x", passes])
    assert (found[1], found[4]) == (None, None)
    assert found[2] == Breach(cause, pytest.approx(value))
    assert rule.breaches(LOOSE[rule], [passes, fails]) == [None, None]


def test_every_threshold_has_its_case():
    tried = {(rule, name) for rule, name, *_ in CASES}
    of_lines = {"terminal_punctuation", "min_words_per_line", "max_word_length", "javascript_lines", "policy_lines"}
    of_lines |= {"citations", "stop_words", "short_line_characters"}
    assert {(r, name) for r, limits in LOOSE.items() for name in vars(limits) if name not in of_lines} == tried


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("terminal_punctuation", 'A.\nB\nC"\nD...\nE…\nF? \nG\u201d', 'A.\nC"\nF?\nG\u201d'),
        ("min_words_per_line", "a b c\na b\n\nd  e  f", "a b c\nd  e  f"),
        (
            "max_word_length",
            "a" * 1000 + "\n" + "b" * 1001 + "\n" + "c " * 600,
            "a" * 1000 + "\n" + ("c " * 600).strip(),
        ),
        ("javascript_lines", "Enable JavaScript\nJava script", "Java script"),
        ("policy_lines", "Our Privacy Policy\nThis site uses cookies\nCookies", "Cookies"),
        ("citations", "A[1] b[edit] c[citation needed][]. [x]", "A b c. [x]"),
    ],
)
def test_lines_of_c4(name, text, kept):
    limits = C4Thresholds(**(vars(LOOSE[c4]) | {name: getattr(C4Thresholds(), name)}))
    assert c4.clean(limits, [text]) == [(kept, None)]


def test_sentences_of_c4_are_those_of_the_lines_that_stay():
    page = "One here now. Two here now. Three here now.\nFour here. Five here. Menu\nSix here now. Seven here now."
    (text, breach) = c4.clean(C4Thresholds(), [page])[0]
    assert text == "One here now. Two here now. Three here now.\nSix here now. Seven here now."
    assert breach is None
    assert causes(QualitySettings(c4=C4Thresholds(min_sentences=6)), [page]) == ["c4_min_sentences"]


def test_empty_documents():
    empty = ["", " ", "\n\n", "\x00"]
    assert causes(QualitySettings(gopher=GopherThresholds()), empty) == ["gopher_min_words"] * 4
    assert causes(QualitySettings(gopher_repetition=GopherRepetitionThresholds()), empty) == [None] * 4
    assert causes(QualitySettings(c4=C4Thresholds()), empty) == ["c4_min_sentences"] * 4
    assert causes(QualitySettings(fineweb=FineWebThresholds()), empty)[:3] == ["fineweb_empty"] * 3
    for rule, limits in LOOSE.items():
        assert rule.breaches(type(limits)(), []) == []


def test_the_first_rule_that_is_broken_is_named():
    settings = QualitySettings(gopher=GopherThresholds(), fineweb=FineWebThresholds())
    good = "It was the best of times, and that is all that we have to say of them, with care."
    good = "\n".join(good.replace("times", f"times {n}").strip() for n in range(9))
    listed = good.replace(".", "")
    assert causes(settings, [words(3), good, listed]) == ["gopher_min_words", None, "fineweb_min_terminal_lines"]
    assert breaches(settings, [words(3)]) == [Breach("gopher_min_words", 3)]
    assert causes(QualitySettings(), [""]) == [None]
    assert list(RULES) == list(vars(QualitySettings()))


def plain_gopher(limits, text):
    """The shares and counts of Gopher's rules from Python's own words."""
    split = text.split()
    marks = set("!\"#%&'()*,-./:;?@[\\]_{}$+<=>^`|~…—•«")
    counted = [word for word in split if set(word) - marks]
    return len(split), len(counted), sum(map(len, counted)), sum(any(map(str.isalpha, word)) for word in split)


def plain_top(text, n):
    split = text.split()
    grams = Counter(tuple(split[i : i + n]) for i in range(len(split) - n + 1))
    if not grams:
        return 0.0
    gram, count = grams.most_common(1)[0]
    return len(" ".join(gram)) * count / len(text)


def plain_duplicate(text, n):
    split, seen, characters, at = text.split(), set(), 0, 0
    while at + n <= len(split):
        gram = tuple(split[at : at + n])
        if gram in seen:
            characters += len("".join(gram))
            at += n
        else:
            seen.add(gram)
            at += 1
    return characters / len(text) if text else 0.0


@pytest.mark.parametrize("seed", range(60))
def test_batches_measure_what_plain_python_measures(seed):
    r = random.Random(seed)
    few = [
        r.choice(["a", "bb", "ccc", "é9", "--", "…a", "44", "\U0001d400x", "«", "7。"])
        for _ in range(r.randrange(2, 6))
    ]
    texts = [
        "".join(r.choice(few) + r.choice([" ", "  ", "\n", "\u2003", "\t"]) for _ in range(r.randrange(40)))
        for _ in range(12)
    ]
    for n in (2, 3, 4):
        limits = GopherRepetitionThresholds(**(vars(LOOSE[gopher_repetition]) | {f"max_top_{n}_gram": 0.0}))
        measured = [b.value if b else 0.0 for b in gopher_repetition.breaches(limits, texts)]
        assert measured == pytest.approx([plain_top(text, n) for text in texts])
    for n in range(5, 11):
        limits = GopherRepetitionThresholds(**(vars(LOOSE[gopher_repetition]) | {f"max_duplicate_{n}_grams": 0.0}))
        measured = [b.value if b else 0.0 for b in gopher_repetition.breaches(limits, texts)]
        assert measured == pytest.approx([plain_duplicate(text, n) for text in texts])
    found = [
        [b.value if b else None for b in gopher.breaches(GopherThresholds(**(vars(LOOSE[gopher]) | limit)), texts)]
        for limit in ({"max_words": 0}, {"min_mean_word_length": 1e9}, {"min_alphabetic_words": 1.0})
    ]
    for row, text in enumerate(texts):
        count, counted, characters, alphabetic = plain_gopher(LOOSE[gopher], text)
        assert found[0][row] == (counted or None)
        assert found[1][row] == pytest.approx(characters / counted if counted else 0)
        share = alphabetic / count if count else 0.0
        assert found[2][row] == (pytest.approx(share) if share < 1 else None)


def test_the_result_for_a_document_does_not_depend_on_the_others():
    r = random.Random(0)
    texts = [
        " ".join(r.choices(["the", "of", "#", "dog.", "ä"], k=r.randrange(90))) + "\n" * r.randrange(3)
        for _ in range(50)
    ]
    settings = QualitySettings(
        GopherRepetitionThresholds(), GopherThresholds(min_words=3), C4Thresholds(), FineWebThresholds()
    )
    together = breaches(settings, texts)
    assert together == [breaches(settings, [text])[0] for text in texts]
    assert len({breach.cause for breach in together if breach}) > 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gopher": {"min_wordz": 3}}, "unknown key quality.gopher.min_wordz; GopherThresholds has min_words, "),
        ({"gofer": {}}, "unknown key quality.gofer; QualitySettings has gopher_repetition, gopher, c4, fineweb"),
        ({"gopher": {"min_words": "many"}}, "quality.gopher.min_words='many' must be a whole number"),
        ({"gopher": {"min_words": -1}}, "gopher.min_words=-1 must be a finite number of at least 0"),
        ({"gopher": {"max_bullet_lines": 90}}, "gopher.max_bullet_lines=90.0 is a share and must be at most 1"),
        ({"gopher": {"min_words": 9, "max_words": 3}}, "gopher.min_words=9 is above max_words=3"),
        ({"gopher": {"min_stop_words": 2, "stop_words": "der der"}}, "gopher.min_stop_words=2: there are only 1 stop"),
        ({"c4": {"lorem_ipsum": 1}}, "quality.c4.lorem_ipsum=1 must be of type bool"),
        ({"fineweb": {"max_short_lines": 67}}, "fineweb.max_short_lines=67.0 is a share"),
        ({"gopher_repetition": {"max_top_2_gram": 2}}, "gopher_repetition.max_top_2_gram=2.0 is a share"),
    ],
)
def test_thresholds_from_yaml_are_strict(values, message):
    with pytest.raises(ValueError, match=r"gopher|quality|fineweb") as error:
        from_dict(QualitySettings, values, "quality", as_written=True)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_thresholds_from_yaml():
    values = {"gopher": {"min_words": "1K", "max_words": None}, "c4": {}}
    settings = from_dict(QualitySettings, values, "quality", as_written=True)
    assert settings == QualitySettings(gopher=GopherThresholds(min_words=1000, max_words=None), c4=C4Thresholds())
