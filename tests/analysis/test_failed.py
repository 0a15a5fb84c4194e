"""Points that failed are named in the report and under its figures, not silently left out."""

import json

import pytest

from analysis.failed import FAILED_POINTS, FailedPoint, describe_failed, read_tag, short_note
from analysis.load import load_study
from analysis.report import analyse_study, page_of

ERROR = "NonFiniteLossError: step 12: loss nan"


def entry(point, cause="diverged", error=ERROR):
    return {"point": point, "cause": cause, "stage": "a" * 16, "error": error}


@pytest.mark.parametrize("text", [None, "", "[]"])
def test_where_nothing_failed_nothing_is_said(text):
    assert read_tag(text) == ([], 0)
    assert describe_failed(*read_tag(text)) == short_note(*read_tag(text)) == ""


def test_points_are_named_by_what_befell_them():
    tag = [entry("rate=1"), entry("rate=2"), entry("rate=3", "memory", "out"), entry("rate=4", "other", "x")]
    points, left_out = read_tag(json.dumps([*tag, {"left_out": 5}]))
    assert points[0] == FailedPoint("rate=1", "diverged", "a" * 16, ERROR)
    said = describe_failed(points, left_out)
    assert said == (
        f"rate=1, rate=2 diverged ({ERROR}); rate=3 ran out of memory (out); rate=4 failed (x); and 5 more failed"
    )
    note = short_note(points, left_out)
    assert (
        note == "Not shown: rate=1, rate=2 (diverged); rate=3 (ran out of memory); rate=4 (failed); 5 more that failed"
    )


def test_report_and_figures_name_them(published):
    made, uri = published
    frame = load_study(made.study, uri)
    assert frame.attrs[FAILED_POINTS] == ""
    frame.attrs[FAILED_POINTS] = json.dumps([entry("model=m9,tokens=1")])
    results = analyse_study(frame)
    assert f"No result: model=m9,tokens=1 diverged ({ERROR})" in results.notes
    assert results.drawn
    for drawn in results.drawn:
        assert "Not shown: model=m9,tokens=1 (diverged)" in drawn.caption
        foot = [drawn.figure.get_supxlabel(), *(one.get_title().get_text() for one in drawn.figure.legends)]
        assert any("Not shown: model=m9,tokens=1 (diverged)" in text for text in foot)
    assert "model=m9,tokens=1 diverged" in page_of(results, frame)
