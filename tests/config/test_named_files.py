"""Every file and module that the documents, docstrings and comments name exists."""

import re

from workbench.config.compose import PROJECT_ROOT

FOLDERS = ("analysis", "benchmarks", "docs", "experiments", "hydra_plugins", "tests", "workbench")
FILES = {
    path.relative_to(PROJECT_ROOT).as_posix(): path
    for folder in FOLDERS
    for path in (PROJECT_ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md")
}
ENDS = {"/".join(name.split("/")[start:]) for name in FILES for start in range(name.count("/") + 1)}
PATH = re.compile(r"`(?:[\w./-]+ )?((?:[\w-]+/)*[\w-]+\.py)\b")
MODULE = re.compile(r"`((?:analysis|workbench)(?:\.\w+)+)")
OF_OTHER_PROJECTS = ("lm_eval/", "lit_gpt/")
TAGS_OF_MLFLOW = {"workbench.outputs", "workbench.owner", "workbench.published"}


def stale_names(text):
    """Name what a text puts in backquotes as a file or module of the project, and is not there."""
    paths = {path for path in PATH.findall(text) if path not in ENDS and not path.startswith(OF_OTHER_PROJECTS)}
    modules = {name for name in MODULE.findall(text) if not is_defined(name)}
    return paths | (modules - TAGS_OF_MLFLOW)


def is_defined(name):
    """Whether a dotted name is a module of the project, or words in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = "/".join(parts[:length])
        file = FILES.get(f"{module}.py") or FILES.get(f"{module}/__init__.py")
        if file is not None:
            text = file.read_text()
            return all(re.search(rf"\b{part}\b", text) for part in parts[length:])
    return False


def test_a_stale_name_is_found():
    assert stale_names("`config/schema.py`, `frames.py` and `python gone/away.py`") == {
        "config/schema.py",
        "gone/away.py",
    }
    assert stale_names("`analysis.fitting.fit_law`, `analysis.fitting.fit_rows.gone`, `analysis.gone.x`") == {
        "analysis.fitting.fit_rows.gone",
        "analysis.gone.x",
    }


def test_named_files_and_modules_exist():
    texts = {name: FILES[name] for name in FILES if name != "tests/config/test_named_files.py"}
    texts |= {name: PROJECT_ROOT / name for name in ("README.md", "CONTRIBUTING.md")}
    stale = {name: stale_names(path.read_text()) for name, path in texts.items()}
    assert {name: names for name, names in stale.items() if names} == {}


def test_the_tour_names_every_folder_of_modules_and_no_other():
    text = (PROJECT_ROOT / "CONTRIBUTING.md").read_text()
    tour = text[text.index("## The tour") : text.index("## How to add")]
    tour = re.sub(r"\*On disk:\*.*", "", tour)
    named = re.findall(r"`([\w./-]+)`", tour)
    folders = {
        name.rsplit("/", 1)[0] for name in FILES if name.split("/")[0] in ("workbench", "analysis", "hydra_plugins")
    }
    ends = {"/".join(name.split("/")[start:]) for name in folders for start in range(name.count("/") + 1)}
    others = {f"{path.name}/" for path in PROJECT_ROOT.iterdir() if path.is_dir()}
    assert {name for name in named if name.endswith("/") and name not in others and name[:-1] not in ends} == set()
    segments = {part for name in named for part in name.split("/")}
    assert {name for name in folders if name.rsplit("/", 1)[-1] not in segments} == set()


def test_a_module_is_found_by_the_name_of_its_file():
    """Only the files that every kind of stage has, and those that Python and pytest look for, stand more than once."""
    modules = [name.split("/")[-1] for name in FILES if name.endswith(".py")]
    allowed = {"__init__.py", "__main__.py", "conftest.py", "spec.py", "plan.py", "run.py"}
    assert sorted({name for name in modules if modules.count(name) > 1} - allowed) == []
