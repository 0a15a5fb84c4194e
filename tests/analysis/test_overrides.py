"""Points' names, whole and as earlier versions cut them."""

import pandas as pd
import pytest

from analysis.overrides import label_order, label_variants, override_names, override_of, override_values

CUT = "model=m1,seed=0,variant=gelu | model=m1,seed=1,variant=gelu | and 12 more"


def frame(*points):
    return pd.DataFrame({"model": "m1", "point": list(points)})


def test_what_was_cut_is_no_point_and_no_value():
    assert override_names(frame(CUT)) == {"model", "seed", "variant"}
    assert override_values(frame(CUT), "variant").isna().all()
    assert override_values(frame(CUT.removesuffix(" | and 12 more")), "variant").tolist() == ["gelu"]


def test_the_refusal_says_how_to_get_all_points():
    with pytest.raises(ValueError, match=r"^[^\n]*only some of its points: `workbench publish`"):
        override_of(frame(CUT), "variant")


def test_variants_are_told_apart_by_the_points_that_are_known():
    labels = label_variants(frame(CUT, "model=m1,seed=0,variant=base"))["model"]
    assert labels.tolist() == ["m1 variant=gelu", "m1 variant=base"]


def test_what_tells_a_point_from_those_that_failed_is_shown():
    """The only rate that did not diverge is still one of four."""
    frame = pd.DataFrame({"model": ["m1", "m2"], "point": ["model=m1,rate=1,tokens=5", "model=m2,rate=1,tokens=5"]})
    failed = [("m1", "model=m1,rate=100,tokens=5"), ("m1", "model=m1,rate=1e6,tokens=5")]
    assert list(label_variants(frame, failed)["model"]) == ["m1 rate=1", "m2"]
    assert list(label_variants(frame)["model"]) == ["m1", "m2"]


def test_where_a_later_stage_begins_makes_no_variant():
    """Its rank stands in the label already, and its beginning and budget are axes; any other setting is shown."""
    points = [f"then.chat.at_tokens={at},then.chat.lora.rank=8,then.chat.learning_rate=0.1" for at in (1, 2)]
    other = "then.chat.at_tokens=1,then.chat.lora.rank=8,then.chat.learning_rate=0.2"
    frame = pd.DataFrame({"model": "m1 chat r8", "point": points})
    assert set(label_variants(frame)["model"]) == {"m1 chat r8"}
    frame = pd.DataFrame({"model": "m1 chat r8", "point": [*points, other]})
    assert label_variants(frame)["model"].tolist()[-1] == "m1 chat r8 then.chat.learning_rate=0.2"


def test_numbers_in_words_count_by_size():
    """Ranks of adapters, milestones and kept ids stand in labels as parts of words."""
    labels = [
        "m1 chat r32",
        "m1 chat r2",
        "m1 rate=1e-2",
        "m1 chat r8",
        "m1 rate=9e-3",
        "m1 lr=null",
        "m1 lr=top10",
        "m1 lr=top9",
    ]
    chats = ["m1 chat r2", "m1 chat r8", "m1 chat r32"]
    assert sorted(labels, key=label_order) == [
        *chats,
        "m1 lr=top9",
        "m1 lr=top10",
        "m1 lr=null",
        "m1 rate=9e-3",
        "m1 rate=1e-2",
    ]
