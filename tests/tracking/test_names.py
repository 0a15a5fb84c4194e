"""Names of runs: they tell a sweep's stages apart, name what shared stages have in common, and stay short."""

import re
from collections import Counter

import pytest

from tests.analysis.made_sweep import resolved
from workbench.config.compose import PROJECT_ROOT
from workbench.study.study_plan import plan_study, study_record
from workbench.tracking.names import MAX_CHARACTERS, common_overrides, run_name

STUDIES = sorted(path.stem for path in (PROJECT_ROOT / "experiments").glob("*.md"))


def names_of(compose, *overrides):
    """Names of a plan's stages, without their ids."""
    points = [(name, resolved(config)) for name, config in compose(list(overrides))]
    plan = plan_study(points, ["f" * 16] * len(points))
    record = study_record(plan, created=0.0, commit="", dirty=False)
    names: list[str] = []
    for node in plan.nodes.values():
        through = [point for point in record["points"] if point["name"] in node.points]
        names.append(run_name(node.stage, node.stage.model.name, node.id, through))
    assert all(name.endswith(f" {node.id[:6]}") for name, node in zip(names, plan.nodes.values(), strict=True))
    return [name[:-7] for name in names]


@pytest.mark.parametrize("study", STUDIES)
def test_stages_of_a_study_are_told_apart(compose, study):
    names = names_of(compose, f"experiments={study}")
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert max(len(name) + 7 for name in names) <= MAX_CHARACTERS


def test_what_a_sweep_varies_is_in_the_name(compose):
    variants = names_of(compose, "experiments=ablation", "variant=base,gelu", "optimizer.learning_rate=0.004", "seed=2")
    assert set(variants) == {"m0_1_gqa base cosine 250K s2", "m0_1_gqa gelu cosine 250K s2"}
    rates = names_of(compose, "experiments=ablation", "variant=base,gelu", "seed=2")
    assert "m0_1_gqa gelu rate 0.004 cosine 250K s2" in rates


def test_shared_stages_name_what_is_common(compose):
    names = names_of(compose, "experiments=continual", "seed=0,1")
    assert "m0_3 basic 1.5M s1" in names
    assert "m0_3 continual_code continual 1.5M-1.85M s1" in names
    rates = names_of(compose, "experiments=learning_rate", "model=m0_1", "tokens=250000,500000")
    assert "m0_1 batch 8 rate 0.002 trunk 399K s0" in rates


def test_seeds_that_are_set_apart_are_both_there(compose):
    names = names_of(compose, "experiments=seeds", "model=m0_03")
    assert {"m0_03 cosine 250K s1", "m0_03 cosine 250K s1 init3"} <= set(names)


def test_stages_that_do_not_train_have_their_points_seed(compose):
    names = names_of(compose, "experiments=extend", "then.extend.method=yarn")
    assert {"m0_3 yarn x4 1.5M s1", "m0_3 yarn x4 trained 1.5M-1.7M s1"} <= set(names)


def test_repeated_tokens_are_short(compose):
    names = names_of(compose, "experiments=repetition", "model=m0_1")
    assert any(re.fullmatch(r"m0_1 unique 64K trunk \S+ s0", name) for name in names)


def test_long_overrides_are_cut(compose):
    [(_, config)] = compose(["tokens=500000"])
    stage = next(iter(plan_study([("base", config)], ["f" * 16]).nodes.values())).stage
    point = {"name": f"data.sources.prose.path=/{'x' * 200}", "seed_init": 0}
    name = run_name(stage, "m0_1", "0123456789abcdef", [point])
    assert len(name) <= MAX_CHARACTERS
    assert re.search(r"\.\.\. trunk \S+ s0 012345$", name)


def test_common_overrides():
    assert common_overrides(["a=1,b=[1,2],c=x", "a=1,b=[1,2],c=y"]) == ["a=1", "b=[1,2]"]
    assert common_overrides(["base"]) == []
