"""Whole numbers as people write them: 1e6, 1M and 1000000 are one value, one name and one stage."""

import pytest

from workbench.config.compose import composer
from workbench.config.plain import whole_number
from workbench.study.study_plan import plan_study


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (7, 7),
        (1e6, 1_000_000),
        (2.5e5, 250_000),
        ("1e6", 1_000_000),
        ("1.5e3", 1500),
        ("1_000_000", 1_000_000),
        ("250K", 250_000),
        ("1M", 1_000_000),
        ("1.5B", 1_500_000_000),
        ("0.3T", 300_000_000_000),
        ("-5", -5),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_whole_numbers_are_taken(written, value):
    assert whole_number(written, "tokens") == value


@pytest.mark.parametrize(
    "written",
    [
        *(1.5, 1000.1, float("inf"), float("nan"), True, None, [1], {"a": 1}),
        *("1.5", "1.0001e3", "1.5e-3", "1.2345K", "1k", "1MB", "1M5", "M", "many", "", "0x10", "1e999999999"),
    ],
)
def test_others_are_refused_with_what_to_write(written):
    with pytest.raises(ValueError, match=r"^tokens=[^\n]*250K") as error:
        whole_number(written, "tokens")
    assert repr(written) in str(error.value)


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("tokens=1e6", lambda c: c.tokens, 1_000_000),
        ("tokens=1.5M", lambda c: c.tokens, 1_500_000),
        ("tokens=1_000_000", lambda c: c.tokens, 1_000_000),
        ("++tokens=2M", lambda c: c.tokens, 2_000_000),
        ("seed=1e1", lambda c: c.seed_init, 10),
        ("recipe.milestones=[1e5,200K]", lambda c: c.recipe.milestones, [100_000, 200_000]),
        ("recipe.warmup_tokens=32K", lambda c: c.recipe.warmup_tokens, 32_000),
        ("data.unique_tokens=64K", lambda c: c.data.unique_tokens, 64_000),
        ("data.sources.prose.max_bytes=3M", lambda c: c.data.sources["prose"].max_bytes, 3_000_000),
        ("optimizer.base_params=1.1B", lambda c: c.optimizer.base_params, 1_100_000_000),
        ("recipe.phases=[{name: a, share: 1, batch_scale: 2e0}]", lambda c: c.recipe.phases[0].batch_scale, 2),
        ("numerics.micro_batch_sequences=null", lambda c: c.numerics.micro_batch_sequences, None),
    ],
)
def test_every_whole_field_takes_them(compose, override, read, value):
    [(_, config)] = compose([override])
    assert read(config) == value
    assert isinstance(read(config), type(value))


def test_flops_stay_a_float(compose):
    [(_, config)] = compose(["tokens=null", "flops=1e15"])
    assert config.flops == 1e15


@pytest.mark.parametrize(("override", "quoted"), [("tokens=1.5", "1.5"), ("tokens=1Mi", "1Mi"), ("seed=x", "seed")])
def test_mistakes_name_the_field_and_the_value(override, quoted):
    with composer() as hydra, pytest.raises(ValueError, match=r"^[^\n]*250K[^\n]*$") as error:
        hydra.points([override])
    assert quoted in str(error.value)


def test_a_studys_file_takes_them(compose, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "# @package _global_\nstudy: mine\ntokens: 1M\nrecipe: {milestones: [1e5, 200K], warmup_tokens: 3e4}\n"
        "hydra: {launcher: {workers: 2e0}, sweeper: {params: {seed: 1e1, data.unique_tokens: '64K,1.28e5'}}}\n"
    )
    points = compose(["experiments=mine"], tmp_path)
    assert [(name, config.data.unique_tokens) for name, config in points] == [
        ("data.unique_tokens=64000", 64_000),
        ("data.unique_tokens=128000", 128_000),
    ]
    assert {(c.tokens, c.seed, c.recipe.warmup_tokens) for _, c in points} == {(1_000_000, 10, 30_000)}
    assert points[0][1].recipe.milestones == [100_000, 200_000]
    with composer(tmp_path) as hydra:
        assert hydra.launcher(["experiments=mine"]).workers == 2


def test_one_value_has_one_name_and_one_stage(compose):
    """However it is written, a point is called by its digits, and written twice it is one point."""
    written = compose(["tokens=250K,1e6,1000000,1M,1_000_000", "recipe.milestones=[1e5],[100K],[100000]"])
    plain = compose(["tokens=250000,1000000", "recipe.milestones=[100000]"])
    assert [name for name, _ in written] == ["tokens=250000", "tokens=1000000"]
    assert written == plain
    assert set(plan_study(written, ["f" * 16] * 2).nodes) == set(plan_study(plain, ["f" * 16] * 2).nodes)


def test_a_range_of_floats_is_one_of_whole_numbers(compose):
    assert [name for name, _ in compose(["tokens=range(1e6,3e6,1e6)"])] == ["tokens=1000000", "tokens=2000000"]
