"""Checkpoints of the hub: a plan reads what they are, and their weights are fetched when they are needed."""

import fnmatch
import hashlib
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError

from tests.model.test_pretrained import FAMILIES
from workbench.data.store import open_prepared
from workbench.evaluate.hub_files import list_files
from workbench.evaluate.outside_checkpoint import find_for_plan, read_imported
from workbench.forecast.study_facts import make_facts, prepare_data
from workbench.launch.snapshot import freeze_study
from workbench.train.checkpoint import checkpoints_by_tokens

NAME = "some/model"
COMMITS = {None: "a" * 40, "main": "a" * 40, "step1000": "b" * 40}


class Hub:
    """Stands in for the hub: one repository, of which it counts what it is asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repository = root / "repository"
        self.large = 1000  # files of more bytes are in LFS
        self.error: Exception | None = None
        self.asked = 0
        self.fetched: list[str] = []

    def model_info(self, name, *, revision=None, files_metadata, timeout):
        self.asked += 1
        if self.error:
            raise self.error
        assert files_metadata
        assert timeout > 0
        commit = COMMITS.get(revision, revision)
        files = [self._describe(path) for path in sorted(self.repository.rglob("*")) if path.is_file()]
        return SimpleNamespace(sha=commit, siblings=files)

    def _describe(self, path: Path) -> SimpleNamespace:
        content = path.read_bytes()
        known = len(content) > self.large
        lfs = SimpleNamespace(sha256=hashlib.sha256(content).hexdigest()) if known else None
        return SimpleNamespace(rfilename=path.relative_to(self.repository).as_posix(), size=len(content), lfs=lfs)

    def snapshot_download(self, name, *, revision=None, allow_patterns, ignore_patterns):
        if self.error and COMMITS.get(revision, revision) not in (path.name for path in self.root.rglob("snapshots/*")):
            raise self.error
        folder = self.root / "models--some--model" / "snapshots" / COMMITS.get(revision, revision)
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.repository.rglob("*")):
            relative = path.relative_to(self.repository).as_posix()
            wanted = any(fnmatch.fnmatch(relative, pattern) for pattern in allow_patterns)
            ignored = any(fnmatch.fnmatch(relative, pattern) for pattern in ignore_patterns)
            if path.is_file() and wanted and not ignored and not (folder / relative).exists():
                shutil.copyfile(path, folder / relative)
                self.fetched.append(relative)
        return str(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch, outputs):
    """The hub, with a small Llama in one file of weights."""
    made = Hub(tmp_path)
    [store] = [path for path in (outputs / "data").iterdir() if (path / "manifest.json").exists()][:1]
    write_model(made.repository, store)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    list_files.cache_clear()
    yield made
    list_files.cache_clear()


def write_model(directory: Path, store: Path, **options: object) -> None:
    kind, config = FAMILIES["llama2"]
    torch.manual_seed(0)
    model = kind(type(config)(**{**config.to_dict(), "vocab_size": open_prepared(store).vocab_size}))
    model.save_pretrained(directory, **options)
    for file in open_prepared(store).tokenizer_dir.iterdir():
        shutil.copyfile(file, directory / file.name)
    (directory / "README.md").write_text("---\nlicense: mit\n---\n")


@pytest.fixture
def plan(compose, overrides, experiments, hub):
    def make(*more):
        settings = [*overrides, "init=hf", f"init.path={NAME}", "init.tokens=1M", "tokens=0", *more]
        return make_facts(compose(settings, experiments))

    return make


def test_a_plan_fetches_no_weights_and_names_them_as_their_files_do(plan, hub, outputs):
    facts = plan("init.revision=step1000")
    [node] = facts.plan.nodes.values()
    assert "model.safetensors" not in hub.fetched
    assert {"config.json", "tokenizer.json"} <= set(hub.fetched)
    assert node.stage.fingerprint == read_imported(hub.repository).fingerprint
    assert (node.stage.revision, node.stage.licence, node.stage.path) == ("b" * 40, "mit", NAME)
    assert facts.config.init.revision == "b" * 40
    said = []
    prepare_data(facts, said.append)
    assert hub.fetched.count("model.safetensors") == 1
    assert any(f"fetching {NAME} at {'b' * 40}" in line for line in said)


def test_it_runs_and_what_is_done_is_not_fetched_again(plan, hub, run_local):
    facts = plan()
    prepare_data(facts, print)
    facts = freeze_study(facts)
    run_local(facts, evaluate=False)
    [node] = facts.plan.nodes.values()
    assert checkpoints_by_tokens(facts.layout.stage(node.id))
    shutil.rmtree(hub.root / "models--some--model")
    hub.fetched.clear()
    prepare_data(plan(), print)
    assert "model.safetensors" not in hub.fetched


def test_several_files_of_weights_are_named_alike(hub, outputs):
    [store] = [path for path in (outputs / "data").iterdir() if (path / "manifest.json").exists()][:1]
    shutil.rmtree(hub.repository)
    write_model(hub.repository, store, max_shard_size="60KB")
    (hub.repository / "onnx").mkdir()
    (hub.repository / "onnx" / "other.safetensors").write_bytes(b"x" * 2000)
    assert len(list(hub.repository.glob("*.safetensors"))) > 2
    assert find_for_plan(NAME).fingerprint == read_imported(hub.repository).fingerprint
    assert not [name for name in hub.fetched if name.endswith(".safetensors")]


def test_weights_whose_checksum_the_hub_lacks_are_fetched(hub):
    hub.large = 10**9
    assert find_for_plan(NAME).fingerprint == read_imported(hub.repository).fingerprint
    assert "model.safetensors" in hub.fetched


def test_pickles_alone_are_refused_by_the_plan_with_the_command(plan, hub):
    (hub.repository / "model.safetensors").rename(hub.repository / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"some/model at a{40} has its weights as a pickle alone") as refused:
        plan()
    command = str(refused.value).partition(": python")[2]
    assert command.endswith(f"some/model model-safetensors {'a' * 40}")
    assert "init.path=model-safetensors init.revision=null" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not hub.fetched


def test_a_refusal_names_its_point(plan, hub):
    (hub.repository / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"^point .*seed_init=0.*: some/model at a{40} has neither model.safetensors nor"
    ):
        plan("seed_init=0,1")


def test_a_hub_out_of_reach_is_asked_for_no_commit_that_is_known(hub, caplog):
    first = find_for_plan(NAME)
    list_files.cache_clear()
    hub.error = ConnectionError("no\nnetwork")
    asked = hub.asked
    assert find_for_plan(NAME, "a" * 40).fingerprint == first.fingerprint
    assert hub.asked == asked
    with caplog.at_level(logging.WARNING):
        assert find_for_plan(NAME).fingerprint == first.fingerprint
    assert f"some/model is taken at commit {'a' * 40}, the last known of its revision=None" in caplog.text
    list_files.cache_clear()
    with pytest.raises(ValueError, match=r"no such directory, and the hub gave none: no network") as refused:
        find_for_plan(NAME, "step1000")
    assert "\n" not in str(refused.value)


def test_what_the_hub_does_not_have_is_one_line(hub):
    response = SimpleNamespace(status_code=404, headers={}, request=None)
    hub.error = RepositoryNotFoundError("no\n\nsuch thing", response=response)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the hub gives no checkpoint 'some/model' with revision='v2': no such thing"):
        find_for_plan(NAME, "v2")
