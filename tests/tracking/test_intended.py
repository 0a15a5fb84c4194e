"""Names of points in tags: whole, however many there are."""

from analysis.experiment_store import joined
from workbench.tracking.intended import MAX_TAG_CHARACTERS, names_tags


def test_names_that_fit_are_one_tag():
    assert names_tags("points", ["a=1", "a=2"]) == {"points": "a=1 | a=2"}
    assert names_tags("points", []) == {"points": ""}


def test_more_names_than_a_tag_holds_come_back_whole():
    names = [f"model=m1,optimizer.learning_rate=0.{i:04d},seed={i}" for i in range(500)]
    tags = names_tags("points", names)
    assert list(tags) == ["points", *(f"points.{i}" for i in range(2, len(tags) + 1))]
    assert len(tags) > 3
    assert all(len(value) <= MAX_TAG_CHARACTERS for value in tags.values())
    assert joined(tags, "points").split(" | ") == names


def test_a_part_that_an_earlier_plan_left_is_not_read():
    assert joined({"points": "a=1", "points.2": "a=9"}, "points") == "a=1"


def test_a_single_name_longer_than_a_tag_is_kept():
    assert joined(names_tags("points", ["x" * 6000, "y"]), "points") == "x" * 6000 + " | y"
