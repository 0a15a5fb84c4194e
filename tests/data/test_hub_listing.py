"""Files of data sets of the hub: listed without fetching any, fetched at a commit, and every refusal in one line."""

from __future__ import annotations

import dataclasses
import logging

import httpx2
import huggingface_hub
import pytest
from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError

from tests.data.conftest import forget_answers
from tests.data.hub_server import DataSet, HubServer, git_hash
from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, TokenizerConfig
from workbench.data import hub as hub_revisions
from workbench.data.corpus.full_disk import NoSpaceError
from workbench.data.fingerprint import data_fingerprint, describe_source
from workbench.data.hub import HubOutOfReachError
from workbench.data.hub_download import check_access, fetch_hub_file
from workbench.data.hub_listing import kept_hub_files, list_hub_files
from workbench.data.remote_inputs import list_remote

FILES = {
    "README.md": b"about",
    "loader.py": b"raise SystemExit",
    "data/a/train/0.jsonl": b'{"text": "one"}\n',
    "data/a/train/1.jsonl": b'{"text": "two"}\n' * 3,
    "data/b/train/0.jsonl": b'{"text": "three"}\n',
    "data/b/validation/0.jsonl": b'{"text": "four"}\n',
    "notes/deep/er/x.txt": b"a text",
    "weights.bin": b"\0",
}
NAMES = ["data/a/train/0.jsonl", "data/a/train/1.jsonl", "data/b/train/0.jsonl"]


@pytest.fixture
def texts(hub: HubServer) -> DataSet:
    """Data set `some/texts`."""
    hub.sets["some/texts"] = DataSet()
    hub.sets["some/texts"].commit(FILES)
    return hub.sets["some/texts"]


def listed(*patterns: str, revision: str | None = None) -> list[str]:
    return [file.name for file in list_hub_files("some/texts", revision, patterns)]


def test_globs_name_files_with_sizes_and_hashes_and_nothing_is_fetched(hub: HubServer, texts: DataSet):
    assert listed("data/*/train/*.jsonl") == NAMES
    assert listed("**/train/*.jsonl") == NAMES
    assert listed("data/b/**") == ["data/b/train/0.jsonl", "data/b/validation/0.jsonl"]
    assert listed("data/a/train/1.jsonl", "data/b/*/0.jsonl") == ["data/a/train/1.jsonl", *listed("data/b/**")]
    assert listed("notes/**/*.txt") == ["notes/deep/er/x.txt"]
    by_name = {file.name: file for file in list_hub_files("some/texts", None, ("data/**",))}
    assert by_name[NAMES[1]].size == 48
    assert by_name[NAMES[1]].content.startswith("sha256:")
    assert not hub.fetched()
    assert not any("/resolve/" in line for line in hub.asked)


def test_small_files_have_the_hash_that_git_gives_them(hub: HubServer):
    hub.sets["some/texts"] = DataSet()
    content = b'[{"text": "in git itself"}]'
    hub.sets["some/texts"].commit({"x.json": content})
    [file] = list_hub_files("some/texts", None, ("*.json",))
    assert file.content == f"git:{git_hash(content)}"
    place = fetch_hub_file("some/texts", hub.sets["some/texts"].branches["main"], file)
    assert place.read_bytes() == content
    place.resolve().write_bytes(content.upper())
    with pytest.raises(ValueError, match="not the content of the 27 that the hub lists"):
        fetch_hub_file("some/texts", hub.sets["some/texts"].branches["main"], file)


def test_only_the_folder_that_a_glob_begins_with_is_listed(hub: HubServer, texts: DataSet):
    listed("data/a/train/*.jsonl")
    trees = [line for line in hub.asked if "/tree/" in line]
    assert trees
    assert all("/data/a/train" in line for line in trees)


def test_a_commit_is_listed_once_and_then_known_without_the_hub(hub: HubServer, texts: DataSet, caplog):
    assert listed("data/*/train/*.jsonl") == NAMES
    asked = len(hub.asked)
    forget_answers()
    assert listed("data/*/train/*.jsonl", revision=texts.branches["main"]) == NAMES
    assert len(hub.asked) == asked
    hub.status = 404  # also of a revision that was asked for before, and without asking
    source = SourceConfig("huggingface", path="some/texts", files=["data/*/train/*.jsonl"])
    assert [file.name for file in kept_hub_files(source) or ()] == NAMES
    assert kept_hub_files(dataclasses.replace(source, files=["*"])) is None
    assert kept_hub_files(dataclasses.replace(source, revision="other")) is None


def test_the_fingerprint_is_of_the_files_and_not_of_the_commit(hub: HubServer, texts: DataSet):
    source = SourceConfig("huggingface", path="some/texts", files=["data/*/train/*.jsonl"])
    data = DataConfig("x", {"s": source}, corpus=CorpusConfig())

    def named() -> str:
        forget_answers()
        return data_fingerprint(data, TokenizerConfig())

    first = named()
    pinned = hub_revisions.pin_revisions(data)
    assert pinned.sources["s"].revision == texts.branches["main"]
    texts.commit({"README.md": b"more about it"})
    assert named() == first
    texts.commit({NAMES[0]: b'{"text": "One"}\n'})
    assert named() != first
    assert data_fingerprint(pinned, TokenizerConfig()) == first
    assert [file[0] for file in describe_source(source)["files"]] == NAMES
    assert not hub.fetched()


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (
            ["data/*/trian/*.jsonl"],
            r"matches files='data/\*/trian/\*\.jsonl': there is data/b/train/\*\.jsonl, data/a/train/",
        ),
        (["data/*/train/*.parquet"], r"matches .*: there is data/b/train/\*\.jsonl"),
        (["dat/a/train/*.jsonl"], r"there is data/a/train/\*\.jsonl"),
        (["data/*/train/*.jsonl", "date/*.jsonl"], r"matches files='date/\*\.jsonl': there is "),
        (["data/a/train/2.jsonl"], r"there is data/a/train/\*\.jsonl"),
        (["w*"], r"the files match weights\.bin, whose endings are of no format that is read \(jsonl, "),
        (
            ["data/**", "notes/**"],
            r"match several formats, jsonl \(data/a/train/0\.jsonl\), text \(notes/deep/er/x\.txt\)",
        ),
    ],
)
def test_what_globs_do_not_find_is_said_with_what_is_near(hub: HubServer, texts: DataSet, patterns, said):
    with pytest.raises(ValueError, match=said) as caught:
        listed(*patterns)
    assert str(caught.value).isprintable()


def test_texts_have_no_fields(hub: HubServer, texts: DataSet):
    source = SourceConfig("huggingface", path="some/texts", files=["notes/**"], where="a == 1")
    with pytest.raises(ValueError, match=r"where='a == 1': notes/deep/er/x\.txt is a text, which has no fields"):
        list_remote(source)


def test_a_name_or_revision_that_is_not_there_is_said(hub: HubServer, texts: DataSet):
    with pytest.raises(
        ValueError, match=r"no data set 'some/text' with revision=None: .*; check the name, which is owner/"
    ) as caught:
        list_hub_files("some/text", None, ("*",))
    assert str(caught.value).isprintable()
    with pytest.raises(
        ValueError, match=rf"it has no such revision: .*commit of {hub.url}/datasets/some/texts/commits/main"
    ):
        listed("*", revision="v9")
    with pytest.raises(ValueError, match=r"does not list data set 'some/texts' at commit c{40}: .*no such revision"):
        listed("*", revision="c" * 40)


def test_a_folder_of_this_machine_has_no_such_files(hub: HubServer, tmp_path):
    with pytest.raises(ValueError, match="is a folder of this machine"):
        list_hub_files(str(tmp_path), None, ("*",))


def test_terms_and_tokens_are_asked_for(hub: HubServer, texts: DataSet, monkeypatch):
    texts.token, texts.gated = "right", True
    commit = texts.branches["main"]
    [file, *_] = list_hub_files("some/texts", None, ("data/**",))  # everybody may list it
    for read in (check_access, fetch_hub_file):
        with pytest.raises(
            ValueError, match=rf"it is gated: accept its terms at {hub.url}/datasets/some/texts, and log in"
        ):
            read("some/texts", commit, file)
    monkeypatch.setenv("HF_TOKEN", "of another account")
    with pytest.raises(ValueError, match=r"it is gated: .*HF_TOKEN is set now"):
        check_access("some/texts", commit, file)
    monkeypatch.setenv("HF_TOKEN", "right")
    check_access("some/texts", commit, file)
    assert fetch_hub_file("some/texts", commit, file).read_bytes() == FILES[file.name]
    assert {token for path, token in hub.tokens if path.startswith("/content/")} == {None}  # no token for the storage
    hub.status = 401
    check_access("some/texts", commit, file)  # it is here


def test_a_private_data_set_looks_like_none(hub: HubServer, texts: DataSet):
    texts.token = "right"
    with pytest.raises(ValueError, match=r"if it is private, log in \(`hf auth login`, or set HF_TOKEN\)"):
        listed("data/**")


def test_a_token_without_permission_is_said(hub: HubServer, texts: DataSet):
    commit = texts.branches["main"]
    [file, *_] = list_hub_files("some/texts", None, ("data/**",))
    hub.status = 403
    for read in (check_access, fetch_hub_file):
        with pytest.raises(ValueError, match="the token may not read it"):
            read("some/texts", commit, file)


def test_a_hub_that_does_not_answer_is_said(hub: HubServer, texts: DataSet, monkeypatch, caplog):
    commit = texts.branches["main"]
    [file, *_] = list_hub_files("some/texts", None, ("data/**",))
    forget_answers()
    hub.status = 503
    with caplog.at_level(logging.WARNING):
        assert listed("data/**") == [*NAMES, "data/b/validation/0.jsonl"]
    assert f"some/texts is taken at commit {commit}" in caplog.text
    with pytest.raises(
        HubOutOfReachError, match=rf"does not answer which files commit {commit} has: see whether {hub.url}"
    ):
        listed("data/b/**")
    check_access("some/texts", commit, file)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        HubOutOfReachError, match=r"HF_HUB_OFFLINE is set: unset it, or fetch it .*hf download some/texts"
    ):
        listed("data/b/**")
    with pytest.raises(
        HubOutOfReachError,
        match=r"does not give data/a/train/0\.jsonl of data set 'some/texts': .*HF_HUB_OFFLINE is set",
    ) as caught:
        fetch_hub_file("some/texts", commit, file)
    assert not caught.value.may_pass


def test_what_the_library_fetched_before_is_read_without_the_hub(hub: HubServer, texts: DataSet, monkeypatch):
    commit = texts.branches["main"]
    huggingface_hub.snapshot_download("some/texts", repo_type="dataset", revision=commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    [file, *_] = list_hub_files("some/texts", commit, ("data/*/train/*.jsonl",))
    assert fetch_hub_file("some/texts", commit, file).read_bytes() == FILES[file.name]


def test_a_fetch_that_breaks_goes_on_where_it_broke(hub: HubServer, texts: DataSet, monkeypatch):
    monkeypatch.setattr(
        huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100_000
    )  # what is kept is whole blocks of 10 MB
    content = b"".join(b'{"text": "%d"}\n' % i for i in range(200_000))
    commit = texts.commit({"big.jsonl": content})
    [file] = list_hub_files("some/texts", commit, ("big.jsonl",))
    hub.break_after["big.jsonl"] = [1_000_000]
    assert fetch_hub_file("some/texts", commit, file).read_bytes() == content
    ranges = [line.split(" ")[2] for line in hub.asked if line.endswith("-")]
    assert len(ranges) == 1
    begin = int(ranges[0].removeprefix("bytes=").rstrip("-"))
    assert begin == 1_000_000


def test_other_bytes_in_the_cache_are_refused(hub: HubServer, texts: DataSet):
    commit = texts.branches["main"]
    [file, *_] = list_hub_files("some/texts", None, ("data/**",))
    place = fetch_hub_file("some/texts", commit, file)
    place.resolve().write_bytes(b'{"text": "two"}\n')
    with pytest.raises(
        ValueError, match=r"has 16 bytes and not the content .*: delete .*, and start the command again"
    ):
        fetch_hub_file("some/texts", commit, file)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Quota"),
        RuntimeError("Data error: No space left on device"),
    ],
)
def test_a_full_disk_is_said_and_no_fault_of_the_input(hub: HubServer, texts: DataSet, monkeypatch, error: Exception):
    [file, *_] = list_hub_files("some/texts", None, ("data/**",))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(error))
    with pytest.raises(
        NoSpaceError,
        match=r"no room for data/a/train/0\.jsonl of data set 'some/texts' in the hub's cache: it needs 0\.0 kB, and [\d,.]+ [kM]B "
        rf"are free in {huggingface_hub.constants.HF_HUB_CACHE} .* set HF_HUB_CACHE to a folder of a larger disk",
    ):
        fetch_hub_file("some/texts", texts.branches["main"], file)


def raising(error: Exception):
    def raise_it(*args, **kwargs):
        raise error

    return raise_it


def answer(status: int) -> HfHubHTTPError:
    error = HfHubHTTPError(
        "said", response=httpx2.Response(status, request=httpx2.Request("GET", "http://hub/x?sig=hunter2"))
    )
    error.args = (f"{status} for url 'http://hub/x?sig=hunter2'",)
    return error


def in_the_library(error: Exception) -> Exception:
    outer = LocalEntryNotFoundError("cannot find the requested files in the local cache")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        in_the_library(ConnectionError("no route")),
        in_the_library(answer(503)),
        in_the_library(FileMetadataError("no header")),
        answer(429),
        answer(502),
        httpx2.ReadTimeout("too slow"),
        OSError("Consistency check failed: file should be of size 4 but has size 3"),
        RuntimeError("Data processing error: CAS service error"),
    ],
)
def test_a_hub_out_of_reach_is_no_fault_of_the_input(hub: HubServer, texts: DataSet, monkeypatch, error: Exception):
    [file, *_] = list_hub_files("some/texts", None, ("data/**",))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(error))
    with pytest.raises(
        HubOutOfReachError,
        match=rf"^the hub is out of reach and does not give {file.name} .*: see|; see whether {hub.url}",
    ) as caught:
        fetch_hub_file("some/texts", texts.branches["main"], file)
    assert caught.value.may_pass
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("error", [answer(403), answer(404), ValueError("The file is too large")])
def test_a_refusal_is_the_inputs(hub: HubServer, texts: DataSet, monkeypatch, error: Exception):
    [file, *_] = list_hub_files("some/texts", None, ("data/**",))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(error))
    with pytest.raises(ValueError, match=r"^the hub does not give data/a/train/0\.jsonl of data set") as caught:
        fetch_hub_file("some/texts", texts.branches["main"], file)
    assert type(caught.value) is ValueError


def test_an_error_that_is_neither_stays_what_it_is(hub: HubServer, texts: DataSet, monkeypatch):
    [file, *_] = list_hub_files("some/texts", None, ("data/**",))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):
        fetch_hub_file("some/texts", texts.branches["main"], file)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "jsonl", "files": ["*"]}, r"files=\['\*'\] are of sources of kind 'huggingface', not 'jsonl'"),
        ({"files": []}, r"files=\[\] names no file"),
        ({"files": ["/a"]}, r"files='/a' is no glob"),
        ({"files": ["a/../b"]}, r"files='a/\.\./b' is no glob"),
        ({"files": [""]}, r"files='' is no glob"),
        ({"files": ["*"], "subset": "en"}, r"subset='en' is for `datasets`"),
        ({"files": ["*"], "split": "test"}, r"split='test' is for `datasets`"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        SourceConfig(**{"kind": "huggingface", "path": "some/set", **settings})


def test_files_need_a_corpus():
    source = SourceConfig("huggingface", path="some/set", files=["*"])
    with pytest.raises(ValueError, match=r"data\.sources\.s\.files=\['\*'\] needs data\.corpus"):
        DataConfig("x", {"s": source})
