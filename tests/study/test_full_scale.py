"""The command at full scale in every study's text: it composes, plans, and is of full scale in what it sets."""

import shlex
from dataclasses import replace

import pytest

from tests.analysis.made_sweep import resolved
from workbench.config.compose import CONFIG_DIR, PROJECT_ROOT
from workbench.config.schema import TrainingStage
from workbench.data.mixture import Mixture
from workbench.study.resources import stage_resources
from workbench.study.study_plan import plan_study

# The models of `published` are of full scale already, and nothing is trained.
TEXTS = sorted(path for path in (PROJECT_ROOT / "experiments").glob("*.md") if path.stem != "published")
MODELS = {path.stem for path in (CONFIG_DIR / "model").glob("*.yaml")}
LEAST_BATCH_TOKENS = 100_000
LEAST_WARMUP_STEPS = 100
BYTES_A_TOKEN = 5
"""More than a token of Llama 2's stands for on average, in prose and in code."""


@pytest.fixture(scope="module", params=TEXTS, ids=lambda path: path.stem)
def study(request):
    """Name of a study, and the plan of its command at full scale."""
    from workbench.config.compose import composer

    overrides = read_command(request.param)
    assert f"experiments={request.param.stem}" in overrides
    with composer() as hydra:
        points = [(point.name, _with_teacher(point.config, hydra)) for point in hydra.points(overrides)]
    return request.param.stem, plan_study(points, ["f" * 16] * len(points))


def _with_teacher(config, hydra):
    """Fill in what planning would read from files that are not here, a teacher's model among it."""
    then = {}
    for name, settings in config.then.items():
        if settings.kind == "distill":
            [teacher] = hydra.points(["model=tinyllama_1b", "tokenizer=llama2", "tokenizer.path=x"])
            model = replace(teacher.config.model, context_tokens=config.model.context_tokens)
            named = replace(settings.teacher, model=model, fingerprint="f" * 16, vocabulary="v" * 16)
            settings = replace(settings, teacher=named)
        then[name] = settings
    return resolved(replace(config, then=then))


def read_command(path):
    """Overrides of the one indented command of a text that names a cluster."""
    blocks = [part for part in path.read_text().split("\n\n") if part.startswith("    workbench")]
    [command] = [block for block in blocks if "cluster=" in block]
    program, verb, *overrides = shlex.split(command.replace("\\\n", " "))
    assert (program, verb) == ("workbench", "plan")
    return overrides


def test_steps_are_large_and_the_warm_up_is_many_of_them(study):
    _, plan = study
    for stage in (node.stage for node in plan.nodes.values() if isinstance(node.stage, TrainingStage)):
        assert stage.precision == "bf16"
        assert stage.batch_tokens >= LEAST_BATCH_TOKENS
    for point in plan.points:
        recipe = point.config.recipe
        step = recipe.batch_sequences * point.config.model.context_tokens
        assert recipe.warmup_tokens >= LEAST_WARMUP_STEPS * step
        assert recipe.warmup_tokens < point.tokens / 4


def test_models_keep_their_own_shape(study, compose):
    _, plan = study
    baselines = [point.config for point in plan.points if point.config.variant.name == "base"]
    assert baselines
    llama2 = ["tokenizer=llama2", "tokenizer.path=tokenizer.model"]
    for name in {config.model.name for config in baselines}:
        assert name in MODELS
        [(_, plain)] = compose([f"model={name}", *llama2])
        shapes = {config.model for config in baselines if config.model.name == name}
        assert {(s.num_layers, s.width, s.num_heads, s.num_kv_heads, s.mlp_width) for s in shapes} == {
            (p.num_layers, p.width, p.num_heads, p.num_kv_heads, p.mlp_width) for p in [plain.model]
        }


def test_the_text_is_enough(study):
    _, plan = study
    for point in plan.points:
        line = [plan.nodes[identifier].stage for identifier, _ in point.chain]
        [stage] = [one for one in line if isinstance(one, TrainingStage) and one.stream.sources][-1:]
        names = tuple(sorted(point.config.data.sources))
        drawn = Mixture(stage.stream.mixture, names).counts(stage.sequences(stage.end_tokens))
        for name, sequences in zip(names, drawn, strict=True):
            source, unique = point.config.data.sources[name], stage.stream.sources[name].unique_tokens
            tokens = min(sequences * stage.stream.context_tokens, unique or float("inf"))
            assert source.max_bytes is None or source.max_bytes >= BYTES_A_TOKEN * tokens
            assert unique is None or source.max_epochs is None


def test_the_cluster_has_room(study):
    _, plan = study
    for node in plan.nodes.values():
        cluster = plan.points[0].config.cluster
        asked = stage_resources(node.stage, cluster, node.tokens)
        if not isinstance(node.stage, TrainingStage):
            continue
        assert asked.gpus_per_node >= 1
        assert asked.peak_memory_bytes < cluster.gpu_memory_bytes


@pytest.mark.parametrize(
    "study", [path for path in TEXTS if path.stem == "continual"], ids=["continual"], indirect=True
)
def test_continual_has_the_published_lengths(study):
    _, plan = study
    for point in plan.points:
        basic, continual, cooldown = (plan.nodes[stage].stage for stage, _ in point.chain)
        lengths = [basic.end_tokens, continual.end_tokens - basic.end_tokens, cooldown.end_tokens]
        assert lengths == pytest.approx([1.5e12, 3.5e11, 2e12], rel=1e-4)
