from __future__ import annotations

import random

import pytest

from workbench.data.overlap import HeldoutRuns, OverlapMeter

PASSAGE = [f"the held-out line number {i} says something of its own" for i in range(7)]


def windows(text: str, length: int) -> set[tuple[str, ...]]:
    lines = [" ".join(line.split()) for line in text.split("\n") if line.strip()]
    return {tuple(lines[i : i + length]) for i in range(len(lines) - length + 1)}


def make_runs(*texts: str, length: int = 5) -> HeldoutRuns:
    runs = HeldoutRuns(length)
    for text in texts:
        runs.add(text)
    return runs


def test_a_planted_passage_is_cut_out_whatever_its_indentation():
    planted = "\n\n".join("\t  " + line.replace(" ", "   ") for line in PASSAGE)
    pieces, found = make_runs("\n".join(PASSAGE)).cut(f"before\n\n{planted}\nafter\nafter that")
    assert pieces == ["before", "after\nafter that"]
    assert len(found) == 3


def test_form_feeds_and_line_separators_end_no_line():
    """What cuts and what measures must see the same lines, or a store without leak is refused."""
    odd = "\n".join(f"a line\f number {i}\u2028 with\x1c others\u0085 inside" for i in range(7))
    meter = OverlapMeter({"prose": [odd]}, 5)
    assert len(meter.windows) == 3
    assert make_runs(odd).cut(f"x\n{odd}\ny")[0] == ["x", "y"]
    assert meter.report(meter.hits([f"x\n{odd}\ny"]))["prose"]["share"] == 1
    assert not meter.hits(["x\n" + odd.replace("\f", "\n")])


def test_fewer_lines_than_a_run_stay():
    text = "before\n" + "\n".join(PASSAGE[:4]) + "\nafter"
    assert make_runs("\n".join(PASSAGE)).cut(text) == ([text], set())


def test_a_held_out_document_shorter_than_a_run_is_a_run():
    runs = make_runs("one long paragraph on a line", "\n".join(PASSAGE))
    assert runs.cut("x\none  long paragraph on a line\ny")[0] == ["x", "y"]
    assert runs.cut("x\none long paragraph\ny")[0] == ["x\none long paragraph\ny"]


@pytest.mark.parametrize("seed", range(40))
def test_cutting_removes_every_run_nothing_else_and_makes_no_neighbours(seed):
    draw = random.Random(seed)
    letters = "abc" if seed % 2 else "abcdefgh"

    def document(lines: int) -> str:
        return "\n".join(draw.choice([*letters, "", " " + draw.choice(letters)]) for _ in range(lines))

    length = draw.choice([2, 3, 4])
    held = [text for text in (document(draw.randint(9, 30)) for _ in range(4)) if windows(text, length)]
    runs = make_runs(*held, length=length)
    forbidden = set().union(*(windows(text, length) for text in held))
    for _ in range(20):
        text = document(40)
        pieces, found = runs.cut(text)
        assert found == windows(text, length) & forbidden
        for piece in pieces:
            assert not windows(piece, length) & forbidden
            assert windows(piece, 2) <= windows(text, 2)
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        inside = set()
        for i in range(len(lines) - length + 1):
            if tuple(lines[i : i + length]) in forbidden:
                inside.update(range(i, i + length))
        kept = [line.strip() for piece in pieces for line in piece.split("\n") if line.strip()]
        assert kept == [line for i, line in enumerate(lines) if i not in inside]


def test_the_meter_measures_the_share_of_bytes_inside_runs():
    text = "\n".join(PASSAGE)
    other = "\n".join(f"never seen {i}" for i in range(10))
    meter = OverlapMeter({"prose": [text, other], "code": [other.replace("never", "not")]}, 5)
    hits = meter.hits(["x\n   " + "\n\n".join(PASSAGE[1:6]) + "\ny", "unrelated"])
    report = meter.report(hits)
    inside = sum(len(line) + 1 for line in PASSAGE[1:6])
    assert report["prose"]["share"] == pytest.approx(inside / (len(text) + len(other) + 2))
    assert report["prose"]["worst_document"] == pytest.approx(inside / (len(text) + 1))
    assert report["prose"]["documents_above_tenth"] == 0.5
    assert report["code"]["share"] == 0
    assert meter.report(meter.hits([text, other]))["prose"]["share"] == 1
    cut = make_runs(text, other).cut("x\n" + text + "\ny")[0]
    assert not meter.hits(cut)
