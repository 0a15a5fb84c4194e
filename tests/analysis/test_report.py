"""A report shows what a study's frame allows, says why the rest is missing, and needs nothing but itself."""

import html.parser
import importlib.util
import json
import math
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.figures.continual import continual_figure
from analysis.fitting import Fit, fit_law
from analysis.frames import select_loss
from analysis.isoflop import fit_isoflop
from analysis.laws import Chinchilla
from analysis.report import analyse_study, headline_metrics, page_of
from analysis.report.page import Drawn, Section, build_page, figure_block, table_block
from analysis.report.page_blocks import fit_blocks
from analysis.report.study_kinds import is_continual, is_plain, slopes_near
from analysis.report.study_results import NamedFit, Results

if "made_studies" not in sys.modules:
    spec = importlib.util.spec_from_file_location("made_studies", Path(__file__).with_name("made_studies.py"))
    sys.modules["made_studies"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["made_studies"])
made_studies = sys.modules["made_studies"]
BITS, CODE = made_studies.BITS, made_studies.CODE

EXPECTED = {
    "ablation": {"ablation"},
    "sweep": {"sweep"},
    "continual": {"continual"},
    "repetition": {"repetition"},
    "extend": {"position"},
    "isoflop": {"isoflop", "token_scaling", "chinchilla", "surface", "diagnostics", "predicted"},
    "token_scaling": {"token_scaling", "token_scaling_tasks", "chinchilla", "surface", "diagnostics", "predicted"},
}


@pytest.fixture(scope="module")
def study(published):
    from analysis.load import load_study

    made, uri = published
    return load_study(made.study, uri)


@pytest.fixture(scope="module")
def results(study):
    return analyse_study(study)


@pytest.fixture(scope="module")
def text(results, study):
    return page_of(results, study, question="What depends on what?")


def test_a_study_of_sizes_and_tokens(results):
    assert {one.name.split("-")[0] for one in results.drawn} == EXPECTED["token_scaling"]
    assert results.notes == []


@pytest.mark.parametrize("kind", sorted(set(EXPECTED) - {"token_scaling"}))
def test_a_study_gets_the_figures_its_frame_allows(kind, frame):
    results = analyse_study(made_studies.KINDS[kind](frame[frame["metric"] == BITS]))
    assert {one.name.split("-")[0] for one in results.drawn} == EXPECTED[kind]
    assert len({one.name for one in results.drawn}) == len(results.drawn)
    assert results.notes == []


class Page(html.parser.HTMLParser):
    """Gathers what a page loads, its ids, and its links to places in itself."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.ids, self.places, self.marks = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag in ("link", "img", "iframe", "source") or (tag == "script" and "src" in found):
            self.loads.append((tag, attributes))
        if "id" in found:
            self.ids.append(found["id"])
        reference = found.get("href") or found.get("xlink:href") or ""
        if reference.startswith("#"):
            self.places.add(reference[1:])
        elif reference and not reference.startswith("data:"):
            self.loads.append((tag, attributes))
        if found.get("class") == "mark":
            self.marks.append((found["data-figure"], found["data-mark"], found["id"]))


def test_the_page_needs_nothing_but_itself(text, study):
    page = Page(text)
    assert page.loads == []
    assert not re.search(r"url\((?!#)", text)
    assert "What depends on what?" in text
    assert len(page.ids) == len(set(page.ids))
    assert page.places <= set(page.ids)
    data = json.loads(re.search(r'id="lineage-data">(.*?)</script>', text, re.DOTALL)[1].replace("<\\/", "</"))
    assert len(page.marks) == sum(len(marks) for marks in data["figures"].values()) > 100
    for figure, mark, _ in page.marks:
        sources = [data["sources"][place] for place in data["figures"][figure][mark]["sources"]]
        assert sources
        assert all(source["run_id"] in set(study["run_id"]) for source in sources)


def test_fits_are_said_in_words(results, text):
    fit = results.fits[0].fit
    for name in fit.params:
        assert f">{name}</td>" in text
    # Three trunks cannot give an interval of five numbers: the page shows none, and a flag says so.
    assert math.isnan(fit.interval(0.95)["alpha"][0])
    assert "nan" not in "".join(fit_blocks(results.fits[0]))
    assert any("3 independent groups of rows cannot give intervals" in flag for flag in fit.flags)
    for flag in fit.flags:
        assert flag.replace("'", "&#x27;") in text
    assert "largest runs held out" in text
    assert "Left out: 16 rows not annealed." in text


def test_intervals_are_shown_where_there_are_any(study):
    rows = select_loss(study, BITS).drop(columns="trajectory")
    fit = fit_law(Chinchilla(), rows, bootstrap=20)
    low, high = fit.interval(0.95)["alpha"]
    assert f"{low:.4g} to {high:.4g}" in "".join(fit_blocks(NamedFit("x", "x", fit)))


def test_what_cannot_be_made_is_said(frame):
    """One kind's failure is named, and keeps nothing else from being drawn."""
    study = made_studies.ablation(frame)
    longer = study.assign(tokens=500_000, unique_tokens=500_000, checkpoint=study["checkpoint"] + "/.")
    both = pd.concat([study, longer], ignore_index=True)
    results = analyse_study(both)
    assert [one.name for one in results.drawn] == []
    assert "Variants against the baseline is not made: " in results.notes[0]
    assert results.notes[0] in page_of(results, both).replace("&#x27;", "'")
    nothing = analyse_study(frame.assign(value=math.nan))
    assert nothing.notes == ["nothing has been evaluated, so there is nothing to draw"]
    page_of(nothing, frame.assign(value=math.nan))
    with pytest.raises(ValueError, match="frame has \\['a', 'synthetic'\\]"):
        analyse_study(pd.concat([frame, frame.assign(study="a")]))
    with pytest.raises(ValueError, match="lacks the column 'value'"):
        analyse_study(frame.drop(columns="value"))


def test_missing_results_are_counted(frame):
    frame.loc[[0, 1, 2], "value"] = math.nan
    assert "Not evaluated: 3 results" in page_of(Results("x"), frame)


def test_files(results, text, tmp_path):
    written = results.save(tmp_path / "figures", tmp_path / "fits")
    names = {path.name for path in written}
    for one in results.drawn:
        assert {f"{one.name}.{kind}" for kind in ("svg", "png", "csv", "lineage.json")} <= names
    assert "task_curves.table.csv" in names
    for one in results.fits:
        assert Fit.load(tmp_path / "fits" / f"{one.name}.json").params == one.fit.params
    assert all(path.stat().st_size > 0 for path in written)


def test_what_an_earlier_report_left_is_removed(frame, tmp_path):
    """A study that became an ablation shows no sweep; files of others stay, whatever they are called."""
    few = frame[frame["metric"] == BITS]
    figures, fits = tmp_path / "figures", tmp_path / "fits"
    figures.mkdir()
    (figures / "sweep-mine.svg").write_text("mine")
    first = analyse_study(made_studies.sweep(few)).save(figures, fits)
    Results("x").save(figures)
    assert not any(path.exists() for path in first)
    first = analyse_study(made_studies.sweep(few)).save(figures, fits)
    second = analyse_study(made_studies.ablation(few)).save(figures, fits)
    found = {path.name for path in figures.iterdir()}
    assert found == {path.name for path in second} | {"sweep-mine.svg", "report.files.json"}
    assert not {path.name for path in first} & found
    # A manifest that cannot be read, or points elsewhere, removes nothing.
    outside = tmp_path / "keep.txt"
    outside.write_text("x")
    (figures / "report.files.json").write_text('{"files": ["../keep.txt"]}')
    Results("x").save(figures)
    (figures / "report.files.json").write_text("{")
    Results("x").save(figures)
    assert outside.exists()
    assert all(path.exists() for path in second)


def test_fits_of_an_earlier_report_are_removed(results, tmp_path):
    fits = tmp_path / "fits"
    results.save(tmp_path / "figures", fits)
    (fits / "mine.json").write_text("{}")
    Results("x").save(tmp_path / "figures", fits)
    assert {path.name for path in fits.iterdir()} == {"mine.json", "report.files.json"}


def test_two_figures_do_not_share_ids():
    """Ids of one SVG would otherwise be taken for another's."""

    def drawn(name):
        figure = Figure()
        figure.subplots().plot([1, 2], [1, 2], "o")
        points = pd.DataFrame(columns=["mark", "panel", "role", "x", "y"])
        return Drawn(name, name, "", figure, points)

    both = [drawn("a"), drawn("b")]
    page = Page(build_page("t", "", [Section("Figures", [figure_block(one) for one in both])], both))
    assert len(page.ids) == len(set(page.ids))


def test_text_is_escaped():
    table = pd.DataFrame({"<b>": ["<script>alert(1)</script>"]})
    page = build_page("<i>", "&", [Section("x", [table_block(table, "<u>", "<s>")])], [])
    assert "<script>alert" not in page
    assert all(tag not in page for tag in ("<b>", "<i>", "<u>", "<s>"))


def test_parts_of_large_suites_are_left_out_of_figures():
    names = [f"mmlu_{part}/acc" for part in "abcde"] + ["piqa/acc", "arc_easy/acc", "heldout/prose/bits_per_byte"]
    frame = pd.DataFrame({"metric": names, "value": 0.5})
    assert headline_metrics(frame) == ["heldout/prose/bits_per_byte", "arc_easy/acc", "piqa/acc"]


def test_slope_near_a_budget(law_frame):
    """Between the two nearest budgets: (L(500K) - L(250K)) / log 2 at 250K tokens."""
    import outputs_tree

    study = law_frame[(law_frame["model"] == "m0_1") & (law_frame["tokens"] == 250_000)].assign(model="m0_1 variant=x")
    first, second = (outputs_tree.bits_per_byte(100_000, tokens) for tokens in (250_000, 500_000))
    assert slopes_near(law_frame, study) == {BITS: pytest.approx((second - first) / math.log(2))}
    # The name says nothing: what counts is the size.
    assert slopes_near(law_frame, study.assign(model="m9")) == slopes_near(law_frame, study)
    with pytest.raises(ValueError, match="0 budgets of N = 99,000"):
        slopes_near(law_frame, study.assign(params_non_embedding=99_000))
    twice = law_frame.assign(model=law_frame["model"] + " optimizer.weight_decay=0", checkpoint="other")
    with pytest.raises(ValueError, match="N = 100,000 is 2 variants in law"):
        slopes_near(pd.concat([law_frame, twice]), study)
    larger = study.assign(point="variant=more", params_non_embedding=5)
    both = pd.concat([study.assign(point="variant=base"), larger])
    assert slopes_near(law_frame, both) == slopes_near(law_frame, study)


def test_the_slopes_source_is_said(frame):
    study = made_studies.ablation(frame[frame["metric"] == BITS])
    results = analyse_study(study, curves={BITS: -0.1}, curves_from="token_scaling, N = 101K")
    assert "into tokens, from token_scaling, N = 101K: " in results.tables[0].note


def test_variants_of_one_size_are_not_pooled_into_a_law(frame):
    """A sweep of weight decay has two losses at each size and budget: no law of N and D describes both."""
    from analysis.overrides import label_variants

    rows = frame[frame["metric"] == BITS]
    copies = [
        rows.assign(point=rows["point"] + f",optimizer.weight_decay={value}", checkpoint=rows["checkpoint"] + path)
        for value, path in (("0.1", ""), ("0.2", "/."))
    ]
    both = label_variants(pd.concat(copies, ignore_index=True))
    results = analyse_study(both)
    assert not is_plain(both)
    assert results.fits == []
    assert "is 2 variants (" in results.notes[0]
    assert "optimizer.weight_decay=0.2" in results.notes[0]
    compute = made_studies.isoflop(frame)
    pooled = pd.concat(
        [compute, compute.assign(model=compute["model"] + " x=1", checkpoint=compute["checkpoint"] + "/.")]
    )
    assert not [one for one in analyse_study(pooled).drawn if one.name.startswith("isoflop")]


def test_other_schedules_are_not_other_data(frame):
    """Branches with the mixture of their trunk learn no new domain."""
    study = made_studies.continual(frame)
    schedules = study.assign(
        mixture=study.loc[study["stage"] == study["trajectory"], "mixture"].iloc[0],
        point=study["point"].str.replace("continual_prose", "wsd").str.replace("continual_code", "wsd_linear"),
    )
    assert is_continual(study)
    assert not is_continual(schedules)
    assert is_continual(schedules.assign(data_fingerprint=study["model"]))
    assert not is_continual(study.assign(mixture=None))
    results = analyse_study(schedules)
    assert "continual" not in {one.name for one in results.drawn}
    assert "is 2 variants" in results.notes[0]


def test_branches_of_two_models_are_two_figures(frame):
    study = made_studies.continual(frame)
    ids = {name: study[name] + "-2" for name in ("trajectory", "stage", "run_id", "checkpoint")}
    larger = study.assign(model=study["model"].str.replace("m0_1", "m9"), params_non_embedding=9, **ids)
    both = pd.concat([study, larger], ignore_index=True)
    results = analyse_study(both)
    assert [one.name for one in results.drawn] == ["continual-m0_1", "continual-m9"]
    with pytest.raises(ValueError, match="the models m0_1, m9: select the rows of one"):
        continual_figure(both, [BITS])


def test_a_branch_that_goes_on_is_spoken_of_where_there_is_one(frame):
    study = made_studies.continual(frame)
    (drawn,) = analyse_study(study).drawn
    assert "below, the difference from the branch" in drawn.caption
    named = {"continual_prose": "first", "continual_code": "second"}
    other = study.replace({"model": {f"m0_1 recipe={a}": f"m0_1 recipe={b}" for a, b in named.items()}})
    (drawn,) = analyse_study(other).drawn
    assert drawn.caption == "Held-out loss of each domain against tokens."


def test_repeated_data_of_two_rates_are_not_pooled(frame):
    study = made_studies.repetition(frame[frame["metric"] == BITS])
    decays = [
        study.assign(point=study["point"] + f",optimizer.weight_decay={w}", checkpoint=study["checkpoint"] + w)
        for w in ("/.", "/./.")
    ]
    results = analyse_study(pd.concat(decays, ignore_index=True))
    assert results.fits == []
    assert not [one for one in results.drawn if one.name.startswith("repetition")]
    assert "neither fitted nor drawn: repeated data of m0_03 would pool optimizer.weight_decay=" in results.notes[0]


def test_a_fit_without_numbers_is_missing(frame):
    """Two sizes at two budgets cannot tell five numbers apart: a note with the reason, and no empty figure."""
    few = frame[(frame["metric"] == BITS) & frame["model"].isin(["m0_1", "m1"])]
    few = few[few["tokens"].isin(sorted(set(few.loc[few["annealed"], "tokens"]))[:2])]
    results = analyse_study(few)
    assert results.fits == []
    assert not [one for one in results.drawn if one.name.startswith("chinchilla")]
    assert any(" is not fitted: " in note for note in results.notes)


def test_rates_of_one_batch_have_their_table_and_rule(frame):
    study = made_studies.sweep(frame[frame["metric"] == BITS])
    study["point"] = study["point"].str.replace(",recipe.batch_sequences=8", "")
    tables = {one.name.split("-")[0]: one.table for one in analyse_study(study).tables}
    assert len(tables["best_rates"]) == 4
    assert tables["rate_rule"]["rule"].iloc[0].startswith("rate = 0.004 [")


def test_budgets_of_a_sweep_are_figures_of_their_own(frame):
    study = made_studies.sweep(frame[frame["metric"] == BITS])
    first = study.assign(point=study["point"] + ",tokens=250000")
    second = study.assign(
        point=study["point"] + ",tokens=500000",
        unique_tokens=500_000,
        tokens=500_000,
        checkpoint=study["checkpoint"] + "/.",
    )
    results = analyse_study(pd.concat([first, second], ignore_index=True))
    names = [one.name for one in results.drawn]
    assert names == [f"sweep-heldout-prose-bits_per_byte-tokens-{count}" for count in (250000, 500000)]
    assert results.notes == []


def test_lineage_cannot_leave_its_script(frame):
    """Names are text of the user's: none may open a tag or a comment inside the page's JSON."""
    from analysis.figures import token_scaling_figure

    name = "a<!--<script>"
    figure, points = token_scaling_figure(frame.assign(study=name, point=name), [BITS], title="x")
    drawn = Drawn("x", "x", "", figure, points)
    page = build_page("t", "", [Section("Figures", [figure_block(drawn)])], [drawn])
    data = re.search(r'id="lineage-data">(.*?)</script>', page, re.DOTALL)[1]
    assert "<" not in data
    assert {source["study"] for source in json.loads(data)["sources"]} == {name}


def test_an_isoflop_study_has_one_allocation(frame, monkeypatch):
    """Figure and table say the same exponent and interval."""
    from analysis.isoflop import three_approaches
    from analysis.report import parts

    made = []
    monkeypatch.setattr(parts, "fit_isoflop", lambda rows: made.append(fit_isoflop(rows, bootstrap=20)) or made[-1])
    monkeypatch.setattr(
        three_approaches, "fit_isoflop", lambda *a, **k: fit_isoflop(*a, **{**k, "bootstrap": 20, "noise": 0.9})
    )
    results = analyse_study(made_studies.isoflop(frame[frame["metric"] == BITS]))
    (table,) = [one.table for one in results.tables if one.name.startswith("approaches")]
    row = table[table["approach"] == "isoflop parabola"].iloc[0]
    assert len(made) == 1
    assert row["exponent_params"] == made[0].params.exponent
    assert row["exponent_params_low"] == made[0].params.low
