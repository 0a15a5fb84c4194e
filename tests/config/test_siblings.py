"""Points changed from a sibling equal those that Hydra composes one by one."""

from pathlib import Path

import pytest

from workbench.config import compose as compose_module
from workbench.config.compose import PROJECT_ROOT, composer, to_config
from workbench.config.siblings import Siblings

STUDIES = [path.stem for path in sorted((PROJECT_ROOT / "experiments").glob("*.yaml"))]
TINY = "experiments=token_scaling_tiny"
MINE = """# @package _global_
study: mine
seed_init: ${seed_data}
seed_data: ${seed}
optimizer:
  learning_rate: 0.001
  beta2: ${optimizer.beta1}
recipe:
  milestones: ["${tokens}", 300000]
  warmup_tokens: ${checkpoint.keep_last}
tracking: {uri: "file:${study}"}
"""
ODD = {
    "groups": ["model=m0_1,m0_3", "optimizer=adamw,muon", "tokens=250000,500000"],
    "appended": [TINY, "+then=sft", "seed=1,2"],
    "appended values": [TINY, "+data.sources.more={kind: python_code, weight: 1}", "data.sources.more.weight=1,2,3"],
    "forced": [TINY, "++optimizer.learning_rate=0.001,0.002", "seed=1,2"],
    "deleted": [TINY, "~data.sources.code", "data.sources.prose.weight=1,2,3"],
    "lists": [TINY, "recipe.milestones=[20480],[10240,20480]", "seed=1,2"],
    "a list by its place": ["recipe=wsd", "recipe.phases.0.share=0.8", "seed=1,2"],
    "a list's values": ["recipe=wsd", "recipe.log_milestones=0,1,2", "recipe.milestones=[300000]"],
    "references": [TINY, "seed_init=${seed},7", "seed=1,2"],
    "references in a text": [TINY, "tracking.uri=file:${study}", "seed=1,2,3"],
    "references to parts": [TINY, "tracking.uri=null,a", "seed_data=${seed_init}", "seed_init=3,4"],
    "nothing": [TINY, "optimizer.learning_rate=null,0.001", "data.sources.prose.unique_tokens=null,1000,null"],
    "whole numbers": [TINY, "tokens=40960,81920,1e5,1M", "optimizer.learning_rate=1,1.0,1e0"],
    "kinds of values": [TINY, "model.qk_norm=true,false", "optimizer.weight_decay=0,0.0,-0.0,1"],
    "parts": [TINY, "variant.mixture={prose: 1, code: 2},null", "seed=1,2"],
    "a part, then its value": [TINY, "data.sources.prose.weight=1,2,3", "data.sources.code.weight=2"],
    "a part after its value": [
        TINY,
        "data.sources.prose.weight=1,2,3",
        "++data.sources.prose={kind: python_prose, weight: 5, max_bytes: 1000000, heldout_bytes: 20000}",
    ],
    "quoted": [TINY, "tracking.uri='a=b','c d',\"e,f\""],
    "variants": [TINY, "variant=base,gelu,more_code", "seed=1,2"],
    "a file with references": ["experiments=mine", "seed=1,2,3", "tokens=500000,600000"],
    "references replaced": ["experiments=mine", "seed_data=5,6", "optimizer.beta1=0.8,0.9"],
}


def alone(overrides, folder: Path | None, monkeypatch):
    """Compose each point by Hydra and nothing else."""
    with monkeypatch.context() as patch:
        patch.setattr(compose_module, "Siblings", _Never)
        with composer(folder) as hydra:
            return hydra.points(overrides)


class _Never(Siblings):
    def values(self, settings):
        return None


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE)
    return tmp_path


@pytest.mark.parametrize("study", STUDIES)
def test_shipped_studies(study):
    with composer() as hydra:
        overrides = [f"experiments={study}"]
        points = hydra.points(overrides)
        for point in {points[0].name: points[0], points[-1].name: points[-1]}.values():
            composed = to_config(hydra._load_sweep_config(hydra.master(overrides), list(point.overrides)))
            assert repr(point.config) == repr(composed)


@pytest.mark.parametrize("name", ODD)
def test_odd_settings(name, folder, monkeypatch):
    def found(make):
        try:
            return [repr(point) for point in make()]
        except ValueError as error:
            return str(error)

    with composer(folder) as hydra:
        together = found(lambda: hydra.points(ODD[name]))
    assert together == found(lambda: alone(ODD[name], folder, monkeypatch))


def test_only_the_first_of_many_plain_points_is_composed(monkeypatch):
    loaded = []
    with composer() as hydra:
        load = hydra._load_sweep_config
        monkeypatch.setattr(hydra, "_load_sweep_config", lambda *given: loaded.append(given) or load(*given))
        points = hydra.points([TINY, "seed=range(10)", "optimizer.learning_rate=0.001,0.002"])
    assert len(points) > 20 == len({p.config.optimizer.learning_rate for p in points}) * 10
    assert len(loaded) == len({p.config.model.name for p in points})
    assert len({id(p.config.optimizer) for p in points}) <= 3 * len(loaded)  # the first point's own, and one a rate


def test_a_refused_value_leaves_later_points_right():
    with composer() as hydra:
        with pytest.raises(ValueError, match="abc"):
            hydra.points([TINY, "optimizer.learning_rate=0.001,abc"])
        rates = {p.config.optimizer.learning_rate for p in hydra.points([TINY, "optimizer.learning_rate=0.003,0.001"])}
    assert rates == {0.001, 0.003}
