"""The kind of a study: the one that it says it is for, else what its points show."""

import importlib.util
import sys
from pathlib import Path

import pytest

from analysis.report import analyse_study, study_kinds
from workbench.config import schema

if "made_studies" not in sys.modules:
    spec = importlib.util.spec_from_file_location("made_studies", Path(__file__).with_name("made_studies.py"))
    sys.modules["made_studies"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["made_studies"])
made_studies = sys.modules["made_studies"]

PREDICATES = {
    "isoflop": study_kinds.is_isoflop,
    "repetition": study_kinds.is_repetition,
    "continual": study_kinds.is_continual,
    "ablation": study_kinds.is_ablation,
    "sweep": study_kinds.is_sweep,
    "transfer": study_kinds.is_transfer,
    "extend": study_kinds.is_extended,
    "duplicates": study_kinds.is_duplicates,
}


def say(frame, name):
    """Give a frame whose study says what it is for."""
    named = frame.copy()
    named.attrs = {**frame.attrs, study_kinds.ANALYSIS: name}
    return named


def test_a_config_may_say_what_reports_know():
    assert tuple(study_kinds.ANALYSES) == schema.ANALYSES


@pytest.mark.parametrize("name", PREDICATES)
def test_points_show_the_kind_where_the_study_says_none(frame, name):
    study = getattr(made_studies, name)(frame)
    assert [kind for kind, holds in PREDICATES.items() if holds(study)] == [name]
    assert study_kinds.declared(study) is None
    assert study_kinds.lacking(study) == ""


@pytest.mark.parametrize("name", [*PREDICATES, "seeds"])
def test_the_study_has_the_word(frame, name):
    study = say(getattr(made_studies, name)(frame), name)
    assert study_kinds.declared(study) == name
    assert study_kinds.lacking(study) == ""
    assert [kind for kind, holds in PREDICATES.items() if holds(study)] == [kind for kind in PREDICATES if kind == name]


def test_a_study_of_curves_is_none_of_the_kinds_that_its_points_resemble(frame):
    """Points that name several rates and are meant as curves."""
    study = made_studies.sweep(frame)
    assert study_kinds.is_sweep(study)
    assert not study_kinds.is_sweep(say(study.assign(model="m0_1", tokens=range(len(study))), "token_scaling"))


def test_branches_of_one_mixture_are_continual_where_the_study_says_so(frame):
    study = made_studies.continual(frame).assign(mixture=None)
    assert not study_kinds.is_continual(study)
    assert study_kinds.is_continual(say(study, "continual"))


@pytest.mark.parametrize("name", schema.ANALYSES)
def test_what_a_kind_lacks_is_said_in_one_line_and_the_points_choose(frame, name):
    alone = frame.drop_duplicates("metric").assign(point="base")
    study = say(alone, name)
    assert study_kinds.declared(study) is None
    assert study_kinds.lacking(study).startswith(f"analysis={name} needs ")
    assert "\n" not in study_kinds.lacking(study)
    assert study_kinds.lacking(study) in analyse_study(study).notes


def test_a_name_that_reports_do_not_know_is_said(frame):
    assert study_kinds.lacking(say(frame, "tarot")).startswith("analysis=tarot is not one of token_scaling, isoflop")


def test_repeated_data_get_no_law_of_tokens_whatever_the_study_says(frame):
    study = say(made_studies.repetition(frame), "token_scaling")
    assert not study_kinds.is_plain(study)
    results = analyse_study(study)
    assert results.fits == []
    assert any("more than once" in note for note in results.notes)
