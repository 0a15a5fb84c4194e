"""What is remembered saves time, and its folder may fail without any harm."""

from workbench.data.cache import recall, remember


def test_it_comes_back(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remember("text", "kind", "a", 1)
    assert recall("kind", "a", 1) == "text"
    assert recall("kind", "a", 2) is None


def test_a_folder_that_cannot_be_written_or_read_is_no_error(tmp_path, monkeypatch):
    """A file stands in the folder's place: as root, no permission would be refused."""
    (tmp_path / "lm-scaling-workbench").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remember("text", "kind", "a")
    assert recall("kind", "a") is None
