"""A small world for every test: two sources of made-up text, prepared once, and studies over them."""

import contextlib
import fnmatch
import gc
import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS_ONLY = ROOT / ".venv" / "tests-only"
sys.path.insert(
    0, str(Path(__file__).parent)
)  # where `warm_commands` is, for tests and for the processes that it starts

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def write_corpus(path: Path, words: list[str], documents: int, seed: int) -> None:
    """Write documents whose words follow a skewed distribution, so that there is something to learn."""
    rng = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(words))]
    with path.open("w") as file:
        for _ in range(documents):
            lines = [" ".join(rng.choices(words, weights, k=12)) for _ in range(rng.randint(4, 12))]
            file.write(json.dumps({"text": "\n".join(lines)}) + "\n")


def make_words(count: int) -> list[str]:
    """Make pronounceable words of two or three syllables."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    return sorted({"".join(rng.choices(syllables, k=rng.randint(2, 3))) for _ in range(count)})


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_in_the_repository():
    """What a test writes into its working directory is found here: MLflow's artifacts once were committed from there."""
    before = {path.name for path in ROOT.iterdir()}
    yield
    assert_nothing_left(ROOT, before)


def assert_nothing_left(root: Path, before: set[str]) -> None:
    """Name what a folder has gained beyond what its `.gitignore` names."""
    ignored = [line.rstrip("/") for line in (root / ".gitignore").read_text(encoding="utf-8").split()]
    gained = [
        name
        for name in sorted({path.name for path in root.iterdir()} - before)
        if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)
    ]
    assert not gained, f"a test of this module has left {', '.join(gained)} in {root}"


@pytest.fixture(scope="module", autouse=True)
def kept_objects_are_not_searched():
    """Every stage collects garbage, in 0.2 s where all libraries are imported: leave out what modules before this one made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Stores and checkpoints are made by the hundred; a busy disk takes 10 ms for each `fsync`, and no test cuts its power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def peft():
    """The package, which `make test` puts where tests alone find it; their processes and `workbench` do not."""
    sys.path.append(str(TESTS_ONLY))
    return pytest.importorskip("peft", reason=f"no peft in {TESTS_ONLY}: `make test` installs requirements-tests.lock")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Two jsonl files, `prose` and `code`."""
    folder = tmp_path_factory.mktemp("corpus")
    words = make_words(300)
    write_corpus(folder / "prose.jsonl", words, 600, seed=1)
    write_corpus(folder / "code.jsonl", [word.upper() for word in words[::-1]], 600, seed=2)
    return folder


@pytest.fixture(scope="session")
def experiments(corpus):
    """A user's folder of studies; the config group `data` beside it has the corpus."""
    sources = "".join(
        f"  {name}: {{kind: jsonl, path: {corpus / name}.jsonl, weight: {weight}, heldout_bytes: 4000, max_epochs: null}}\n"
        for name, weight in (("prose", 7), ("code", 3))
    )
    (corpus / "data").mkdir()
    (corpus / "data" / "corpus.yaml").write_text(
        f"defaults: [base_data, _self_]\nname: corpus\nheldout_percent: 10\nsources:\n{sources}"
    )
    (corpus / "experiments").mkdir()
    return corpus / "experiments"


@pytest.fixture(scope="session")
def base_overrides():
    """Overrides of a small study on the corpus, without its outputs."""
    return [
        "data=corpus",
        "tokenizer=bpe_tiny",
        "model=m0_03",
        "model.context_tokens=32",
        "model.num_layers=1",
        "recipe.warmup_tokens=512",
        "recipe.batch_sequences=8",
        "evaluation=embedded_tiny",
        "evaluation.suites.embedded.limit=4",
        "tokens=10240",
        "study=small",
    ]


@pytest.fixture(scope="session")
def prepared_root(tmp_path_factory, base_overrides, experiments):
    """Outputs that hold the prepared data and nothing else."""
    from workbench.forecast.study_facts import make_facts, prepare_data

    root = tmp_path_factory.mktemp("prepared")
    facts = make_facts(compose_points([*base_overrides, f"paths.outputs={root}"], experiments))
    prepare_data(facts, print)
    return root


def compose_points(overrides, experiments=None):
    """Compose a sweep into (name, config) pairs."""
    return [(point.name, point.config) for point in _composer(experiments).points(overrides)]


_COMPOSERS = {}
_LEFT_AT_THE_END = contextlib.ExitStack()


def _composer(experiments):
    """Enter Hydra once for all that a config can depend on but its overrides: what differs in plain values is quick then."""
    from workbench.config import compose

    surroundings = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    key = (experiments, Path.cwd(), tuple(sorted(surroundings.items())))
    if key not in _COMPOSERS:
        _COMPOSERS[key] = _LEFT_AT_THE_END.enter_context(compose.composer(experiments))
        compose._current = None
    return _COMPOSERS[key]


def pytest_sessionfinish():
    _LEFT_AT_THE_END.close()


@pytest.fixture
def outputs(tmp_path, prepared_root):
    """Fresh outputs in which the data is prepared already."""
    root = tmp_path / "outputs"
    root.mkdir()
    (root / "data").symlink_to(prepared_root / "data")
    return root


@pytest.fixture
def overrides(base_overrides, outputs):
    """Overrides of a small study under fresh outputs."""
    return [*base_overrides, f"paths.outputs={outputs}"]


@pytest.fixture
def make_study(overrides, experiments):
    """Plan and freeze the small study with further overrides: call it and get its facts."""
    from workbench.forecast.study_facts import make_facts
    from workbench.launch.snapshot import freeze_study

    def make(*more):
        return freeze_study(make_facts(compose_points([*overrides, *more], experiments)))

    return make


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """Making a database takes seconds: make one, copy it to wherever one is needed."""
    from workbench.tracking.mlflow import init_store

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    init_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def know_speeds(experiments, empty_database):
    """Spare a run the seconds that every first one takes: call it with the run's overrides.

    How fast the study trains here is written down, which a run would measure with as many processes as will train, and
    there is a database of MLflow's with nothing in it. `test_study.py`'s first run has to do both.
    """
    from workbench.config.schema import TrainingStage
    from workbench.forecast.estimate import study_slots, study_speeds
    from workbench.forecast.study_facts import make_facts

    def know(overrides):
        facts = make_facts(compose_points(overrides, experiments))
        facts.layout.root.mkdir(parents=True, exist_ok=True)
        if not facts.layout.database.exists():
            shutil.copy(empty_database, facts.layout.database)
        speeds = study_speeds(facts.layout, facts.plan, study_slots(facts, None))
        stages = [node.stage for node in facts.plan.nodes.values() if isinstance(node.stage, TrainingStage)]
        speeds._file.keep({speeds._training_key(stage): 50_000.0 for stage in stages})
        return overrides

    return know


@pytest.fixture
def compose():
    """Compose a sweep into (name, config) pairs."""
    return compose_points


@pytest.fixture
def run_local():
    """Train (and evaluate) a frozen study in this process."""
    from workbench.forecast.study_facts import pending_evaluations
    from workbench.train.whole_stage import train_stage

    def run(facts, *, evaluate=True):
        from workbench.evaluate.reconcile import Evaluator

        for node in facts.plan.nodes.values():
            train_stage(facts.layout, node.id)
        if evaluate:
            evaluator = Evaluator(facts.layout, facts.plan.evaluation)
            for checkpoint, suite in pending_evaluations(facts):
                evaluator.evaluate(checkpoint, suite)

    return run
