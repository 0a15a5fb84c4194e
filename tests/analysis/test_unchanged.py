"""When a report is drawn again: its inputs, the code, or one of its files have changed, and only then."""

import pandas as pd
import pytest

from analysis import unchanged
from analysis.unchanged import inputs_digest, read_unchanged, write_stamp

FRAME = pd.DataFrame({"tokens": [1, 2], "value": [0.1, float("nan")], "points": ["a", "b"]})
OTHERS = {"question": "why?"}


@pytest.fixture
def drawn(tmp_path):
    """Write a report of two files in two folders."""
    figures, fits = tmp_path / "figures" / "study", tmp_path / "fits" / "study"
    for folder in (figures, fits):
        folder.mkdir(parents=True)
        (folder / "file").write_text("drawn")
    write_stamp(figures, inputs_digest(FRAME, OTHERS), [figures / "file", fits / "file"], "a table\n±")
    return figures


def test_the_same_inputs_are_unchanged(drawn):
    assert read_unchanged(drawn, inputs_digest(FRAME.copy(), dict(OTHERS))) == "a table\n±"


@pytest.mark.parametrize(
    "frame",
    [
        FRAME.assign(value=[0.1, 0.2]),
        FRAME.assign(value=[0.1 + 2**-56, None]),
        FRAME.assign(points=["a", "c"]),
        FRAME.iloc[:1],
        FRAME.iloc[::-1],
        FRAME.rename(columns={"tokens": "steps"}),
    ],
)
def test_another_frame_is_a_change(drawn, frame):
    assert read_unchanged(drawn, inputs_digest(frame, OTHERS)) is None


def test_a_study_that_is_for_another_analysis_is_a_change(drawn):
    frame = FRAME.copy()
    frame.attrs["analysis"] = "isoflop"
    assert read_unchanged(drawn, inputs_digest(frame, OTHERS)) is None


def test_other_inputs_are_a_change(drawn):
    assert read_unchanged(drawn, inputs_digest(FRAME, {"question": "how?"})) is None


def test_other_code_is_a_change(drawn, monkeypatch):
    monkeypatch.setattr(unchanged, "_code_digest", lambda: "of another version")
    assert read_unchanged(drawn, inputs_digest(FRAME, OTHERS)) is None


@pytest.mark.parametrize("name", ["file", "../../fits/study/file"])
@pytest.mark.parametrize("content", [None, "altered"])
def test_a_file_that_is_gone_or_altered_is_a_change(drawn, name, content):
    if content is None:
        (drawn / name).unlink()
    else:
        (drawn / name).write_text(content)
    assert read_unchanged(drawn, inputs_digest(FRAME, OTHERS)) is None


@pytest.mark.parametrize("stamp", ["", "{", "[]", "{}", '{"inputs": 1}'])
def test_a_damaged_record_is_a_change(drawn, stamp):
    (drawn / unchanged.STAMP).write_text(stamp)
    assert read_unchanged(drawn, inputs_digest(FRAME, OTHERS)) is None


def test_without_a_record_it_is_drawn(tmp_path):
    assert read_unchanged(tmp_path, inputs_digest(FRAME, OTHERS)) is None
