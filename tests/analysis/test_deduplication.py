"""Comparisons of trainings with and without near duplicates."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.deduplication import deduplication_table, read_search
from analysis.figures import duplicates_figure
from analysis.report import analyse_study

if "made_studies" not in sys.modules:
    spec = importlib.util.spec_from_file_location("made_studies", Path(__file__).with_name("made_studies.py"))
    sys.modules["made_studies"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["made_studies"])
made_studies = sys.modules["made_studies"]
BITS = made_studies.BITS


@pytest.fixture(name="study")
def fixture_study(frame):
    return made_studies.duplicates(frame)


@pytest.mark.parametrize(
    ("text", "threshold", "label"),
    [
        ("null", 1.0, "kept"),
        ("{}", (1 / 14) ** (1 / 8), "0.72 (14 x 8)"),
        ("{bands:24,rows:6}", (1 / 24) ** (1 / 6), "0.59 (24 x 6)"),
        ("{rows:12, bands: 12}", (1 / 12) ** (1 / 12), "0.81 (12 x 12)"),
        ("{bands:20,verify:false}", (1 / 20) ** (1 / 8), "0.69 (20 x 8)"),
        ("{bands:20,least_similarity:0.9}", (1 / 20) ** (1 / 8), "0.69 (20 x 8)"),
        ("{ngram:13}", (1 / 14) ** (1 / 8), "0.72 (14 x 8, 13-grams)"),
        ("{bands:1,rows:18}", 1.0, "1.00 (1 x 18)"),
    ],
)
def test_a_search_is_read_as_overrides_write_it(text, threshold, label):
    search = read_search(text)
    assert search.threshold == pytest.approx(threshold)
    assert search.label == label


def test_the_threshold_and_the_defaults_are_those_of_the_corpus():
    from workbench.config.schema.near_duplicates import NearDuplicates
    from workbench.data.corpus import minhash

    assert read_search("{}").threshold == minhash.threshold(NearDuplicates())
    assert read_search("{bands:8,rows:18}").threshold == minhash.threshold(NearDuplicates(bands=8, rows=18))


@pytest.mark.parametrize("text", ["{bands:24,verify:true}", "14"])
def test_searches_without_a_known_threshold_are_refused(text):
    with pytest.raises(ValueError, match=r"^data\.corpus\.near_duplicates=\S+: the threshold is known of null"):
        read_search(text)


def test_the_defaults_and_all_settings_of_a_search_are_known():
    """A setting that is new there is refused here until labels tell searches apart by it."""
    from dataclasses import fields

    from workbench.config.schema.near_duplicates import NearDuplicates

    default, read = NearDuplicates(), read_search("{}")
    assert (read.ngram, read.bands, read.rows) == (default.ngram, default.bands, default.rows)
    known = {"ngram", "bands", "rows", "verify", "least_similarity"}
    assert {one.name for one in fields(NearDuplicates)} == known
    with pytest.raises(ValueError, match=r"near_duplicates=\{bands:8,hashes:2\}: what hashes makes of a search is not"):
        read_search("{bands:8,hashes:2}")


def renamed(study, **texts):
    """Searches of a study under other settings, by their names `b8`, `b12` and `b24`."""
    points = study["point"]
    for name, text in texts.items():
        [before] = [one for one in made_studies.SEARCHES if f"bands:{name[1:]}," in one]
        points = points.str.replace(before, text, regex=False)
    return study.assign(point=points)


ALIKE = {
    "ngram": ({"b12": "{bands:8,rows:18,ngram:13}"}, ["0.89 (8 x 18)", "0.89 (8 x 18, 13-grams)", "0.59 (24 x 6)"]),
    "threshold": (
        {"b8": "{bands:4,rows:1}", "b12": "{bands:16,rows:2}"},
        ["0.59 (24 x 6)", "0.25 (4 x 1)", "0.25 (16 x 2)"],
    ),
    "kept": ({"b8": "{bands:1,rows:18}"}, ["1.00 (1 x 18)", "0.81 (12 x 12)", "0.59 (24 x 6)"]),
}


@pytest.mark.parametrize("case", ALIKE)
def test_searches_with_one_threshold_are_not_pooled(study, case):
    """Those of other shingles, those of other bands and rows, and a single band beside what keeps all."""
    texts, labels = ALIKE[case]
    alike = renamed(study, **texts)
    table = deduplication_table(alike, BITS)
    assert table["search"].tolist() == ["kept", *labels]
    before = deduplication_table(study, BITS)
    columns = ["seeds", "mean", "stderr", "difference", "low", "high"]
    found, wanted = table[columns].sort_values("mean"), before[columns].sort_values("mean")
    pd.testing.assert_frame_equal(found.reset_index(drop=True), wanted.reset_index(drop=True))
    figure, points = duplicates_figure(alike, BITS)
    assert sorted(points.drop_duplicates("mark")["y"]) == pytest.approx(sorted(before["mean"]))
    shown = " ".join(label.get_text() for label in figure.axes[0].get_xticklabels())
    for label in labels:
        assert label.split(" ", 1)[1] in shown.replace("\n", " ")
    written = {text.get_text() for text in figure.axes[0].texts}
    tied = {label.split(" ", 1)[1].strip("()") for label in labels if sum(label[:4] == one[:4] for one in labels) > 1}
    assert written == (tied or {"kept", "1 x 18"})


def test_lines_join_searches_of_one_shingle_alone(study):
    figure, _ = duplicates_figure(renamed(study, b12="{bands:12,rows:12,ngram:13}"), BITS)
    means = deduplication_table(renamed(study, b12="{bands:12,rows:12,ngram:13}"), BITS).set_index("search")["mean"]
    lines = [line for line in figure.axes[0].get_lines() if line.get_linestyle() not in ("None", "none")]
    drawn = {tuple(round(float(y), 9) for y in line.get_ydata()) for line in lines}
    five = ("kept", "0.89 (8 x 18)", "0.59 (24 x 6)")
    thirteen = ("kept", "0.81 (12 x 12, 13-grams)")
    assert drawn >= {tuple(round(float(means[name]), 9) for name in names) for names in (five, thirteen)}
    assert len({line.get_linestyle() for line in lines if len(line.get_ydata()) in (2, 3)}) == 2


def test_two_corpora_of_one_search_are_not_averaged(study):
    """As those of a study that was launched again when the texts were others."""
    seeds = study["seed_init"]
    other = study.assign(data_fingerprint=study["data_fingerprint"].where(seeds != seeds.max(), "0123456789abcdef"))
    with pytest.raises(ValueError, match=r"near duplicates kept of m0_1 .* would pool the data 0123456789abcdef, "):
        deduplication_table(other, BITS)
    with pytest.raises(ValueError, match=r"would pool the data"):
        duplicates_figure(other, BITS)


def test_differences_are_paired_by_seed(study):
    table = deduplication_table(study, BITS)
    assert table["search"].tolist() == ["kept", "0.89 (8 x 18)", "0.81 (12 x 12)", "0.59 (24 x 6)"]
    rows = study[study["metric"] == BITS]
    by_search = {
        point.split(",seed=")[0]: here.set_index("seed_init")["value"]
        for point, here in rows.groupby(rows["point"].str.replace(r",seed=\d+", "", regex=True))
    }
    values = [by_search[f"data.corpus.near_duplicates={text}"] for text in made_studies.SEARCHES]
    assert math.isnan(table["difference"][0])
    for place in (1, 2, 3):
        pairs = values[place] - values[0]
        assert table["difference"][place] == pytest.approx(pairs.mean())
        reach = (table["high"][place] - table["low"][place]) / 2
        t_of_one_degree = {2: 12.706, 3: 4.3027, 4: 3.1824}[len(pairs)]
        assert reach == pytest.approx(t_of_one_degree * pairs.std() / len(pairs) ** 0.5, rel=1e-3)
    assert table["documents"].isna().all()


def test_records_say_what_was_taken_out(study):
    facts = {"documents": 9, "kept": 8, "tokens": 100, "dropped": {"near_duplicate": 3, "too_short": 1}}
    fingerprint = str(study["data_fingerprint"].iloc[0])
    table = deduplication_table(study, BITS, {fingerprint: {"sources": {"a": facts, "b": facts}}})
    assert table[["documents", "removed", "stored_tokens"]].drop_duplicates().to_numpy().tolist() == [[16, 6, 200]]


def test_the_figure_has_means_errors_and_the_kept_at_the_left(study):
    figure, points = duplicates_figure(study, BITS)
    [axes] = figure.axes
    assert [label.get_text().split("\n")[0] for label in axes.get_xticklabels()] == ["kept", "0.89", "0.81", "0.59"]
    assert axes.get_xlim()[0] > axes.get_xlim()[1]
    table = deduplication_table(study, BITS)
    means = points.drop_duplicates("mark").set_index("x")["y"]
    assert means.to_dict() == pytest.approx(dict(zip(table["threshold"], table["mean"], strict=True)))
    [bars] = [container for container in axes.containers if container.has_yerr]
    [segments] = [collection.get_segments() for collection in bars[2]]
    heights = sorted((segment[1][1] - segment[0][1]) / 2 for segment in segments)
    assert heights == pytest.approx(sorted(table["stderr"]))


def test_rows_that_differ_otherwise_are_not_pooled(study):
    other = study.assign(point=study["point"] + ",optimizer.learning_rate=0.1")
    both = study.assign(point=study["point"] + ",optimizer.learning_rate=0.2")
    with pytest.raises(ValueError, match="would pool optimizer"):
        duplicates_figure(pd.concat([other, both]), BITS)


def test_the_report_has_figure_and_table_and_no_seed_noise_over_them(study):
    results = analyse_study(study)
    assert {one.name for one in results.drawn} == {
        f"duplicates-heldout-{source}-bits_per_byte" for source in ("prose", "code")
    }
    assert {one.name for one in results.tables} >= {
        one.name.replace("duplicates", "deduplication") for one in results.drawn
    }
    assert not any("seed_noise" in one.name for one in results.tables)
    assert not results.fits
