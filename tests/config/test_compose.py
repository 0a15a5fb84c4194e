"""Composition: every file composes, sweeps expand as Hydra's do, and mistakes are one line."""

from pathlib import Path

import pytest

from workbench.config.compose import CONFIG_DIR, PROJECT_ROOT, Composer, composer
from workbench.config.schema import ANALYSES, Config, from_dict, to_dict
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data.store_summary import ignored_percent

GROUPS = ("cluster", "data", "evaluation", "model", "optimizer", "recipe", "tokenizer", "tracking", "variant")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONFIG_DIR / group).glob("*.yaml"))]
STUDIES = [path.stem for path in sorted((PROJECT_ROOT / "experiments").glob("*.yaml"))]
PATHS = {
    ("data", "dolma"): ["data.sources.text.path=dolma"],
    ("data", "jsonl"): ["data.sources.text.path=a.jsonl"],
    ("data", "jsonl_corpus"): ["data.sources.text.path=a.jsonl"],
    ("data", "tokens"): ["data.sources.text.path=a.bin", "tokenizer=llama2", "tokenizer.path=tokenizer.model"],
    ("tokenizer", "llama2"): ["tokenizer.path=tokenizer.model"],
    ("model", "tinyllama_1b"): ["tokenizer=llama2", "tokenizer.path=tokenizer.model"],
    ("recipe", "continual_headers"): ["data=python_domains"],
    ("recipe", "tinyllama_v1"): ["tokens=3T"],
    ("recipe", "tinyllama_v1_1"): ["tokens=2T", "data=slimpajama_starcoder"],
    ("recipe", "tinyllama_v1_1_chinese"): ["tokens=2T", "data=tinyllama_v1_1"],
    ("recipe", "tinyllama_v1_1_math_code"): ["tokens=2T", "data=tinyllama_v1_1"],
    ("tracking", "server"): [],
}


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_file_composes(compose, group, choice):
    extra = PATHS.get((group, choice), [])
    [(_, config)] = compose([f"{group}={choice}", *extra])
    assert isinstance(config, Config)
    assert from_dict(Config, to_dict(config)) == config


@pytest.mark.parametrize("choice", [choice for group, choice in CHOICES if group == "data"])
def test_no_corpus_sets_what_it_does_not_take(compose, choice):
    [(_, config)] = compose([f"data={choice}", *PATHS.get(("data", choice), [])])
    assert ignored_percent(to_dict(config.data)) == []


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_composes(compose, study):
    points = compose([f"experiments={study}"])
    assert {config.study for _, config in points} == {study}
    assert {config.analysis for _, config in points} < set(ANALYSES)
    assert len({name for name, _ in points}) == len(points) > 1


def test_a_presets_search_for_near_duplicates_is_set_without_a_plus_sign(compose):
    preset = ["data=jsonl_corpus", "data.sources.text.path=a.jsonl"]
    searches = "null,{bands:8,rows:18},{verify:true}"
    found = [config.data.corpus for _, config in compose([*preset, f"data.corpus.near_duplicates={searches}"])]
    assert [corpus.near_duplicates for corpus in found] == [
        None,
        NearDuplicates(bands=8, rows=18),
        NearDuplicates(verify=True),
    ]
    [(_, as_it_is)] = compose(preset)
    assert as_it_is.data.corpus.near_duplicates == NearDuplicates()


def test_command_line_replaces_an_axis(compose):
    points = compose(["experiments=token_scaling_tiny", "model=m0_3", "tokens=40960,81920", "seed=range(2)"])
    assert [(c.model.name, c.tokens, c.seed_init, c.seed_data) for _, c in points] == [
        ("m0_3", tokens, seed, seed) for tokens in (40960, 81920) for seed in (0, 1)
    ]
    assert points[0][0] == "tokens=40960,seed=0"


@pytest.mark.parametrize(
    ("overrides", "quoted"),
    [
        (["variant=more_code", "recipe=three_stage"], ["more_code", "'continual'"]),
        (["recipe.phases=[{name: a, share: 1.0, mixture: {prose: 1, code: 1}, ramp_tokens: 512}]"], ["'a'", "512"]),
    ],
)
def test_mixtures_that_would_not_count_are_refused(compose, overrides, quoted):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        compose(overrides)
    assert all(part in str(error.value) for part in quoted)


def test_a_first_phases_mixture_and_a_variants_models_compose(compose):
    compose(["recipe.phases=[{name: a, share: 1.0, mixture: {prose: 1, code: 1}}]"])
    compose(["variant=gelu", "recipe=three_stage"])


def test_seeds_can_be_set_apart(compose):
    [(_, config)] = compose(["seed=3", "seed_data=5"])
    assert (config.seed_init, config.seed_data) == (3, 5)


def test_a_users_own_folder(compose, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "# @package _global_\nstudy: mine\nhydra: {sweeper: {params: {tokens: '500000,1000000'}}}\n"
    )
    assert [c.tokens for _, c in compose(["experiments=mine"], tmp_path)] == [500000, 1000000]


def test_any_working_directory(compose, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [(_, config)] = compose(["tokens=500000"])
    assert Path(config.paths.outputs) == PROJECT_ROOT / "outputs"


@pytest.mark.parametrize(
    ("override", "quoted"),
    [
        ("model.bogus=1", "bogus"),
        ("model.width=abc", "abc"),
        ("model.num_kv_heads=3", "3"),
        ("recipe.batch_sequences=0", "0"),
        ("precision=fp8", "fp8"),
        ("model=no_such", "no_such"),
        ("data.sources.prose.weight=-1", "-1"),
        ("model.vocab_size=7", "7"),
        ("tokens=-5", "-5"),
        ("tokens=many", "many"),
        ("flops=1e12", "flops=1000000000000.0"),
        ("tokens=null", "tokens=None"),
        ("variant.position=sideways", "sideways"),
        ("variant.mixture={news: 1}", "news"),
        ("experiments=no_such", "no_such"),
        ("study=a/b", "a/b"),
        ("analysis=tarot", "tarot"),
        ("recipe.phases=[{name: a, share: 0.5}]", "0.5"),
    ],
)
def test_mistakes_are_one_line_that_quotes_the_value(override, quoted):
    with composer() as hydra, pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        hydra.points([override])
    assert quoted in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiments=token_scaling_tiny", "seed=range(2)", "optimizer.learning_rate=0.001,null"],
        ["experiments=token_scaling", "recipe=wsd,cosine", "recipe.log_milestones=0,1", "model=m0_1", "tokens=250000"],
        ["experiments=token_scaling_tiny", "evaluation=embedded_tiny,none", "seed_init=4,5"],
        ["data.sources.prose.weight=1,2.5", "recipe.milestones=[200000],[300000,400000]"],
    ],
)
def test_points_composed_from_a_sibling_equal_those_composed_alone(overrides, monkeypatch):
    with composer() as hydra:
        together = hydra.points(overrides)
    monkeypatch.setattr(Composer, "_is_plain", lambda self, override: False)
    with composer() as hydra:
        alone = hydra.points(overrides)
    assert len({point.name for point in together}) == len(together) > 1
    assert together == alone


def test_a_wrong_value_in_a_later_point_is_refused():
    with composer() as hydra, pytest.raises(ValueError, match="many"):
        hydra.points(["experiments=token_scaling_tiny", "tokens=40960,many"])
    with composer() as hydra, pytest.raises(ValueError, match="bogus"):
        hydra.points(["experiments=token_scaling_tiny", "model.bogus=1,2"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("token=1000", "there is no setting 'token': did you mean tokens"),
        ("optimizer.lr=0.1", "did you mean optimizer.learning_rate"),
        ("optimiser=adamw", "did you mean optimizer"),
        ("model.n_layers=3", "did you mean model.num_layers"),
        ("recipe=wsdd", "no recipe=wsdd: did you mean wsd? There are constant, continual_code, "),
        ("model=m0_04", "no model=m0_04: did you mean "),
        ("experiments=token_scalng", "did you mean token_scaling? There are ablation, "),
        ("experiments=mine", "a study of your own is found with --experiments DIR"),
        ("data.sources.prose.path=~/x", "twice, for the shell and for Hydra"),
        ("seed=range(3", "twice, for the shell and for Hydra"),
    ],
)
def test_a_mistake_names_what_was_meant_and_not_hydras_advice(override, words):
    with composer() as hydra, pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        hydra.points([override])
    assert words in str(error.value)
    for noise in ("To append", "+", "search path", "object_type", "base_", "hydra.cc"):
        assert noise not in str(error.value)


def test_every_setting_outside_the_groups_can_be_set_on_the_command_line():
    """Hydra takes every folder that it searches for a group: the project's own folder `analysis` hid a setting."""
    with composer() as hydra:
        [point] = hydra.points(["analysis=seeds"])
    assert point.config.analysis == "seeds"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=[m0_03,m0_1]"], "a sweep is written with commas and without brackets, model=m0_03,m0_1"),
        (["seed=[0,1]"], "seed=0,1"),
        (["token_scaling_tiny", "tokens=40960"], "a study is given as experiments=token_scaling_tiny"),
        (["tokens=40960,", "81920"], "write a sweep without spaces"),
        (["experiments=mine/my_study.yaml"], "--experiments mine experiments=my_study"),
    ],
)
def test_what_hydra_would_take_otherwise_is_refused(overrides, words):
    """A list of a group's choices left all but the last out, without a word."""
    with composer() as hydra, pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        hydra.points(overrides)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("defaults:\n  - data: python_tiny\n", "`- override /data: python_tiny`"),
        ("variant: gelu\n", "`- override /variant: gelu` in the study's defaults"),
        ("tokens: 40960,81920\n", "a sweep belongs under hydra.sweeper.params"),
        ("recipe:\n  warmup_tokns: 3\n", "did you mean recipe.warmup_tokens"),
        (
            "hydra:\n  sweeper:\n    params:\n      model: [m0_03, m0_1]\n",
            "model: m0_03,m0_1 under hydra.sweeper.params",
        ),
    ],
)
def test_a_study_files_mistakes_say_what_to_write(tmp_path, body, words):
    (tmp_path / "mine.yaml").write_text(f"# @package _global_\n{body}")
    with composer(tmp_path) as hydra, pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        hydra.points(["experiments=mine"])
    assert words in str(error.value)


RATE = "optimizer.learning_rate=0.01"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.parametrisation=mup", RATE], ["model.parametrisation='mup'", "model.base_width="]),
        (["model.parametrisation=mup", "model.base_layers=2", RATE], ["model.base_width="]),
        (["model.parametrisation=complete_p", RATE], ["'complete_p'", "model.base_width=", "model.base_layers="]),
        (["model.parametrisation=complete_p", "model.base_width=32", RATE], ["model.base_layers="]),
        (
            ["model.parametrisation=mup", "model.base_width=32"],
            ["optimizer.learning_rate=", "optimizer.size_exponent=0.3333"],
        ),
        (
            ["model.parametrisation=mup", "model.base_width=32", "optimizer=adamw_small"],
            ["optimizer.size_exponent=0.454"],
        ),
    ],
)
def test_a_parametrisation_without_its_base_or_at_a_rate_that_falls_already_is_refused(compose, overrides, words):
    """Without a base each size would be its own, and the parametrisation `standard`."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        compose(["model=m0_1,m0_3", *overrides])
    assert not [word for word in words if word not in str(error.value)]


@pytest.mark.parametrize("rate", [RATE, "optimizer.size_exponent=0"])
def test_a_parametrisation_with_its_base_composes_at_one_rate_for_all_sizes(compose, rate):
    bases = ["model.base_width=32", "model.base_layers=2"]
    points = compose(["model=m0_1,m0_3", "model.parametrisation=standard,mup,complete_p", *bases, rate])
    assert len(points) == 6


def test_standard_needs_neither(compose):
    assert len(compose(["model=m0_1,m0_3"])) == 2
