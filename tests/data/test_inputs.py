from __future__ import annotations

import os
from pathlib import Path

import pytest

from workbench.config.schema import SourceConfig
from workbench.data.inputs import find_inputs, show, some_names


def find(path: Path | str, kind: str = "jsonl") -> tuple[list[str], tuple[str, ...]]:
    found = find_inputs(SourceConfig(kind, path=str(path)))
    return [p.name for p in found.paths], found.skipped


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("a.jsonl", "b.json.gz", "README.md", ".hidden.jsonl", "sub/C.JSONL.ZST", "sub/x.csv", ".git/d.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_its_files_by_their_endings_and_names_the_others(data):
    assert find(data) == (["a.jsonl", "b.json.gz", "C.JSONL.ZST"], (".git/", ".hidden.jsonl", "README.md", "sub/x.csv"))
    assert find(data, "text") == (
        ["README.md"],
        (".git/", ".hidden.jsonl", "a.jsonl", "b.json.gz", "sub/C.JSONL.ZST", "sub/x.csv"),
    )


def test_a_glob_takes_the_files_that_it_matches_and_names_the_folders(data):
    assert find(data / "*") == (["README.md", "a.jsonl", "b.json.gz"], ("sub/",))
    assert find(data / "**" / "*.jsonl") == (["a.jsonl"], ())


def test_what_exists_is_no_glob(data, monkeypatch):
    for name in ("[ab].jsonl", "a?.jsonl", "*.jsonl"):
        (data / name).write_bytes(b"x")
        assert find(data / name) == ([name], ())
    (data / "[sub]").mkdir()
    (data / "[sub]" / "e.jsonl").write_bytes(b"x")
    assert find(data / "[sub]" / "?.jsonl") == (["e.jsonl"], ())
    monkeypatch.chdir(data)
    assert find("[sub]/?.jsonl") == (["e.jsonl"], ())
    assert find("sub/../a.jsonl") == (["a.jsonl"], ())


def test_a_tilde_is_the_home_folder_unless_it_exists(data, monkeypatch):
    monkeypatch.setenv("HOME", str(data))
    monkeypatch.chdir(data / "sub")
    assert find("~/a.jsonl")[0] == ["a.jsonl"]
    assert find("~/*.json.gz")[0] == ["b.json.gz"]
    (data / "sub" / "~").mkdir()
    (data / "sub" / "~" / "f.jsonl").write_bytes(b"x")
    assert find("~")[0] == ["f.jsonl"]


def test_links_are_followed_and_broken_ones_named(data, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "g.jsonl").write_bytes(b"x")
    (other / "back").symlink_to(data)
    (data / "link").symlink_to(other)
    (data / "gone.jsonl").symlink_to(data / "nothing")
    names, skipped = find(data)
    assert names == ["a.jsonl", "b.json.gz", "g.jsonl", "C.JSONL.ZST"]
    assert "gone.jsonl" in skipped


def test_a_folder_that_cannot_be_listed_is_an_error(data, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        find(data)


def test_names_are_shown_on_one_line():
    assert show(Path("a [1].jsonl")) == "a [1].jsonl"
    assert show(os.fsdecode(b"caf\xe9\n.jsonl")) == r"caf\udce9\n.jsonl"
    assert some_names(["a", "b", "c"], most=2) == "a, b and 1 more"
