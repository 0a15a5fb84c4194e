"""`numerics.products=auto`: the faster library on the stage's shapes, measured once, recorded, and kept by whoever goes on."""

import hashlib
import shutil
from dataclasses import replace

import pytest
import torch

from tests.train.test_attention_choice import STAGE
from workbench.config.schema import NumericsConfig
from workbench.kinds.logits import plan
from workbench.model import matmul
from workbench.model.openblas import found_openblas
from workbench.train import checkpoint as ckpt
from workbench.train import loop, products_choice
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.numerics_record import products_of
from workbench.train.products_choice import choose_products, measured_seconds, weight_shapes
from workbench.train.throughput import measure_tokens_per_second
from workbench.train.whole_stage import train_stage

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
AUTO = replace(STAGE, precision="fp32", numerics=NumericsConfig(products="auto"))
needs_openblas = pytest.mark.skipif(found_openblas() is None, reason="NumPy here has no OpenBLAS")


def unmeasured(*_):
    raise AssertionError("measured")


@pytest.fixture
def has_openblas(monkeypatch):
    monkeypatch.setattr(products_choice, "found_openblas", lambda: "0.3 Zen")


@pytest.mark.parametrize(
    ("onednn", "openblas", "chosen"), [(3.0, 1.0, "openblas"), (1.0, 3.0, "onednn"), (1.0, 0.99, "onednn")]
)
def test_the_faster_is_taken_by_more_than_chance(has_openblas, onednn, openblas, chosen):
    said, asked = [], []

    def measure(stage, sequences):
        asked.append((stage, sequences))
        return {"onednn": onednn, "openblas": openblas}

    assert choose_products(AUTO, 2, CPU, measure=measure, say=said.append) == chosen
    assert asked == [(AUTO, 2)]
    times = f"onednn {1000 * onednn:.3f} ms, openblas {1000 * openblas:.3f} ms"
    assert said == [
        f"numerics.products=auto takes {chosen}: the products of a pass with weights and their gradients take {times}"
    ]


@pytest.mark.parametrize("library", ["onednn", "openblas"])
def test_what_the_numerics_say_is_not_measured(has_openblas, library):
    stage = replace(AUTO, numerics=NumericsConfig(products=library))
    assert choose_products(stage, 2, CPU, measure=unmeasured, begun_with="onednn") == library


def test_where_there_is_nothing_to_choose_it_is_onednn(has_openblas, monkeypatch):
    assert choose_products(AUTO, 2, CUDA, measure=unmeasured) == "onednn"
    assert choose_products(replace(AUTO, precision="bf16"), 2, CPU, measure=unmeasured) == "onednn"
    monkeypatch.setattr(products_choice, "found_openblas", lambda: None)
    assert choose_products(AUTO, 2, CPU, measure=unmeasured, begun_with="openblas") == "onednn"

    def lacks():
        raise ImportError("threadpoolctl")

    monkeypatch.setattr(products_choice, "found_openblas", lacks)
    assert choose_products(AUTO, 2, CPU, measure=unmeasured) == "onednn"


@pytest.mark.parametrize("library", ["onednn", "openblas"])
def test_what_a_stage_was_begun_with_is_taken_again(has_openblas, library):
    assert choose_products(AUTO, 2, CPU, measure=unmeasured, begun_with=library) == library


def test_nothing_is_multiplied_by_what_was_not_settled():
    with pytest.raises(ValueError, match="onednn or openblas, not 'auto'"), matmul.products_by("auto", 1):
        pass


def test_a_record_that_does_not_say_it_is_of_onednn():
    assert products_of({}) is None
    assert products_of({"torch": "2.11"}) == "onednn"
    assert products_of({"products": "openblas"}) == "openblas"


def test_the_shapes_are_those_that_the_model_multiplies_by():
    """Two layers of width 32, 4 heads of 8, 2 of keys, 64 in the feed-forward, and a vocabulary of 100."""
    shapes = weight_shapes(replace(AUTO, model=replace(AUTO.model, vocab_size=100)))
    queries_keys_values, gate_and_up = (64, 32), (128, 32)
    assert shapes == {queries_keys_values: 2, (32, 32): 2, gate_and_up: 2, (32, 64): 2, (100, 32): 1}


@needs_openblas
def test_both_libraries_are_measured_and_used(monkeypatch):
    used = []
    original = products_choice.products_by
    monkeypatch.setattr(products_choice, "products_by", lambda *a: used.append(a) or original(*a))
    seconds = measured_seconds(AUTO, 2)
    assert set(seconds) == {"onednn", "openblas"}
    assert all(0 < each < 10 for each in seconds.values())
    assert used == [("onednn", 1), ("openblas", 1)] * 6
    assert choose_products(AUTO, 2, CPU) in seconds


@pytest.mark.parametrize("library", ["onednn", "openblas"])
def test_a_trial_is_made_with_what_is_chosen(monkeypatch, library):
    if library == "openblas" and found_openblas() is None:
        pytest.skip("NumPy here has no OpenBLAS")
    monkeypatch.setattr(products_choice, "choose_products", lambda *_: library)
    multiplied = []
    original = matmul._by_library
    monkeypatch.setattr(matmul, "_by_library", lambda *a: multiplied.append(matmul._by_openblas) or original(*a))
    assert measure_tokens_per_second(AUTO, 0.01) > 0
    assert set(multiplied) == {library == "openblas"}


def test_a_stage_of_kept_logits_takes_onednn():
    asked = NumericsConfig(products="auto", attention="auto")
    assert plan._numerics(asked) == NumericsConfig(products="onednn", attention="sdpa")


@needs_openblas
@pytest.mark.parametrize("library", ["onednn", "openblas"])
def test_the_choice_is_recorded_and_kept_by_whoever_goes_on(make_study, monkeypatch, library):
    """Chosen at the first start; a second start and the branch measure no more, and the bits are those of one run."""
    other = {"onednn": "openblas", "openblas": "onednn"}[library]
    takes = iter([library, other, other])
    asked = []

    def choose(stage, sequences, device, *, begun_with, say):
        if stage.numerics.products != "auto":
            return stage.numerics.products
        asked.append((stage.numerics.products, begun_with))
        return begun_with or next(takes)

    monkeypatch.setattr(loop, "choose_products", choose)
    facts = make_study("numerics.products=auto")
    trunk, branch = list(facts.plan.nodes)[:2]
    assert facts.plan.nodes[branch].stage.parent.stage == trunk
    steps = []
    hooks = Hooks(on_progress=steps.append, should_stop=lambda: len(steps) >= 3)
    with pytest.raises(StoppedError):
        train_stage(facts.layout, trunk, hooks)
    train_stage(facts.layout, trunk)
    train_stage(facts.layout, branch)
    assert asked == [("auto", None), ("auto", library), ("auto", library)]
    found = weights_of(facts.layout, library, trunk, branch)
    facts = make_study(f"numerics.products={library}")
    assert [*facts.plan.nodes][:2] == [trunk, branch]
    for stage in (trunk, branch):
        train_stage(facts.layout, stage)
    assert weights_of(facts.layout, library, trunk, branch) == found


def weights_of(layout, library, *stages):
    """Take the stages' checkpoints away, which say by which library they were made, and give the hashes of their weights."""
    found = []
    for stage in stages:
        paths = layout.stage(stage).list_checkpoints()
        assert {ckpt.read_manifest(path)["numerics"]["products"] for path in paths} == {library}
        found += [hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest() for path in paths]
    for stage in stages:
        shutil.rmtree(layout.stage(stage).path)
    return found
