"""Variants: one factor changed, parameters matched, the label kept."""

import pytest

from workbench.config.compose import CONFIG_DIR
from workbench.study.flops import count_parameters
from workbench.study.identity import model_identity

VARIANTS = sorted(path.stem for path in (CONFIG_DIR / "variant").glob("*.yaml") if path.stem != "base")
BASES = (
    ["model=m0_1_gqa"],
    ["model=m30"],
    ["model=tinyllama_1b", "tokenizer=llama2", "tokenizer.path=tokenizer.model"],
)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base[0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_matched_and_changes_one_factor(compose, variant, base):
    [(_, plain)] = compose(base)
    [(_, changed)] = compose([*base, f"variant={variant}"])
    assert changed.variant.name == variant
    sizes = [count_parameters(config.model).non_embedding for config in (plain, changed)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    before, after = model_identity(plain.model), model_identity(changed.model)
    differing = {name for name in before if before[name] != after[name]} - {"mlp_width"}
    weights = [{name: s.weight for name, s in c.data.sources.items()} for c in (plain, changed)]
    assert len(differing) + (weights[0] != weights[1]) == 1


@pytest.mark.parametrize("name", ["m100", "tinyllama_1b"])
def test_the_ablation_takes_any_models_own_heads(compose, name):
    llama2 = ["tokenizer=llama2", "tokenizer.path=tokenizer.model"]
    [(_, plain)] = compose([f"model={name}", *llama2])
    scaled = ["recipe.warmup_tokens=1000", "variant=base", "seed=0", "optimizer.learning_rate=0.001"]
    [(_, base)] = compose(["experiments=ablation", f"model={name}", *llama2, *scaled])
    assert base.model == plain.model


def test_unmatched_it_keeps_the_width(compose):
    [(_, plain)] = compose(["model=m30"])
    [(_, changed)] = compose(["model=m30", "variant=gelu", "variant.match_parameters=false"])
    assert changed.model.mlp_width == plain.model.mlp_width
    assert count_parameters(changed.model).non_embedding < 0.95 * count_parameters(plain.model).non_embedding


def test_what_no_width_can_match_is_refused(compose):
    tiny = ["model.width=8", "model.num_heads=1", "model.num_kv_heads=1", "model.mlp_width=3", "model.num_layers=1"]
    with pytest.raises(ValueError, match=r"no model\.mlp_width"):
        compose([*tiny, "variant=gelu"])
