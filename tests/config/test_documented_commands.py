"""What README and documents tell to type: commands compose and plan, every verb is named, every study has its row."""

import re
import shlex

import pytest

from workbench.cli import main
from workbench.config.compose import PROJECT_ROOT
from workbench.study.chain import build_chain

README = (PROJECT_ROOT / "README.md").read_text()
RESULTS = (PROJECT_ROOT / "docs" / "results.md").read_text()
TEXTS = [README, *(path.read_text() for path in sorted((PROJECT_ROOT / "docs").glob("*.md")))]
LINES = [
    line
    for text in TEXTS
    for line in re.findall(
        r"^    (workbench (?:run|plan|prepare|benchmark-texts) .*)$", text.replace("\\\n", " "), re.M
    )
]
# Alternatives, names to be filled in, and studies and clusters of the reader's own.
COMMANDS = [line for line in LINES if not re.search(r"\||<|cluster=mine|experiments=my_study", line)]
STUDIES = sorted(path for path in (PROJECT_ROOT / "experiments").glob("*.md"))


def test_there_are_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes_and_plans(compose, command):
    _, _, *overrides = shlex.split(command, comments=True)
    for _, config in compose(overrides):
        assert build_chain(config, "f" * 16)


def test_the_documented_corpus_composes(compose, tmp_path):
    text = (PROJECT_ROOT / "docs" / "corpora.md").read_text()
    [config] = re.findall(r"^```yaml\n# workbench prepare data=mine\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(config)
    [(_, composed)] = compose(["data=mine"], tmp_path)
    assert composed.data.corpus.contamination.texts == "outputs/benchmark_texts"
    assert composed.data.sources["web"].heldout_bytes == 400_000


def verbs(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    return re.findall(r"^    ([a-z-]+) {2,}", capsys.readouterr().out, re.M)


def test_the_readme_names_every_verb(capsys):
    found = verbs(capsys)
    assert len(found) >= 13
    assert [verb for verb in found if not re.search(rf"^    (?:\S*/)?workbench {verb}\b", README, re.M)] == []


def test_the_help_of_every_verb_has_an_example_and_says_what_comes_next(capsys):
    for verb in verbs(capsys):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        text = capsys.readouterr().out
        assert re.search(rf"^example:\n  workbench {verb}\b", text, re.M), verb
        assert "Next: " in text or verb == "generate"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_each_study_has_its_question_in_the_readme_and_its_finding_in_the_results(path):
    link = f"| [{path.stem}](experiments/{path.name}) |"
    [question] = [line for line in README.splitlines() if line.startswith(link)]
    [row] = [line for line in RESULTS.splitlines() if line.startswith(question.replace("](", "](../"))]
    assert ("no finding yet" in row) == ("\n## Finding" not in path.read_text())


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_that_import_from_the_project_root_are_started_as_modules(path):
    """`python FILE` of a benchmark has the folder of benchmarks on its path, and not the project's."""
    if not re.search(r"^from (?:benchmarks|tests)\b", path.read_text(), re.M):
        return
    asked = [text for text in (*TEXTS, path.read_text()) if f"python benchmarks/{path.name}" in text]
    assert not asked, f"say `python -m benchmarks.{path.stem}`"
