"""What a study shows when it is done: its question, wherever the study's folder is, and a page in UTF-8."""

import json
import os
import subprocess
import sys
from argparse import Namespace

import pytest

from workbench.cli.show import study_question
from workbench.config.search import PROJECT_ROOT
from workbench.launch.console import command_by_name
from workbench.study.layout import Layout


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "outputs")
    layout.study("mine").mkdir(parents=True)
    return layout


@pytest.fixture
def folder(tmp_path):
    """A user's folder of studies, with the text of one."""
    folder = tmp_path / "own studies"
    folder.mkdir()
    (folder / "mine.md").write_text("# Does λ grow?\n\nText.\n", encoding="utf-8")
    (folder / "seeds.md").write_text("# Another study of that name\n")
    (folder / "empty.md").write_text("")
    return folder


def record(layout, command):
    layout.study_file("mine").write_text(json.dumps({"command": command}))


def test_the_question_is_read_from_the_folder_that_is_given(layout, folder):
    assert study_question(layout, "mine", folder) == "Does λ grow?"
    assert study_question(layout, "seeds", folder) == "Another study of that name"
    assert study_question(layout, "seeds") == "Seeds: how much of a result is luck, and whose?"
    assert study_question(layout, "token_scaling", folder).startswith("Token scaling:")


def test_the_question_of_a_study_that_is_named_alone_is_found_by_its_command(layout, folder):
    record(layout, f"workbench run --experiments '{folder}' experiments=mine")
    assert study_question(layout, "mine") == "Does λ grow?"
    record(layout, "workbench run experiments=mine")
    assert study_question(layout, "mine") == ""


def test_without_a_text_there_is_no_question(layout, folder):
    assert study_question(layout, "mine") == ""
    assert study_question(layout, "empty", folder) == ""


def test_report_hands_its_folder_on(monkeypatch, folder, overrides, experiments):
    from workbench.cli import study_verbs

    seen = []
    monkeypatch.setattr(study_verbs, "show_results", lambda facts, folder=None: seen.append(folder))
    study_verbs.report(Namespace(experiments=experiments, overrides=overrides))
    assert seen == [experiments]


def test_the_page_is_utf8_in_any_locale(tmp_path):
    page = tmp_path / "figures" / "report.html"
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = "import sys; from pathlib import Path; from workbench.cli.show import write_page; "
    code += "write_page(Path(sys.argv[1]), '\\u00b1 \\u03bb')"
    subprocess.run([sys.executable, "-c", code, str(page)], env=plain, check=True, timeout=60)
    assert page.read_bytes() == "± λ".encode()


def test_a_command_by_name_finds_outputs_that_are_elsewhere(tmp_path):
    assert command_by_name("ui", "mine", PROJECT_ROOT / "outputs") == "workbench ui mine"
    elsewhere = command_by_name("ui", "mine", tmp_path / "my outputs")
    assert elsewhere == f"WORKBENCH_OUTPUTS='{tmp_path / 'my outputs'}' workbench ui mine"
