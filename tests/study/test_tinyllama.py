"""TinyLlama's presets at full scale: they have the published lengths, and the plan's numbers are those of a hand count."""

import json
import time
from argparse import Namespace
from fractions import Fraction
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from workbench.cli.plan_verb import print_plan
from workbench.config.schema import PublishedCost
from workbench.data import hub
from workbench.data.mixture import Mixture
from workbench.forecast.study_facts import make_facts
from workbench.study.study_plan import plan_study
from workbench.train.schedule import learning_rate

V1, V1_1 = "experiments=tinyllama", "data=tinyllama_v1_1"
FAMILY = "recipe=tinyllama_v1_1,tinyllama_v1_1_math_code,tinyllama_v1_1_chinese"

ATTENTION = 2048 * (2048 + 2 * 4 * 64) + 2048 * 2048
MATRICES = 22 * (ATTENTION + 3 * 2048 * 5632) + 32_000 * 2048
FLOPS_A_TOKEN = 6 * MATRICES + 12 * 22 * 2048 * 2048
"""Two a multiplication and its addition, three products with the backward; attention's own at the full context."""


class Silence:
    """A hub that does not answer, or that does not have what is asked for."""

    def __init__(self):
        self.asked, self.error = 0, ConnectionError("no network")

    def dataset_info(self, path, revision=None, timeout=None):
        self.asked += 1
        raise self.error


@pytest.fixture
def api(tmp_path, monkeypatch):
    silence = Silence()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: silence)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub.resolve_revision.cache_clear()
    yield silence
    hub.resolve_revision.cache_clear()


@pytest.fixture
def plan(api, tmp_path, capsys, monkeypatch):
    """Run `workbench plan` where there is neither data, nor a tokenizer, nor the hub."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides, as_json=False):
        every = [*overrides, f"paths.outputs={tmp_path / 'outputs'}"]
        assert print_plan(Namespace(experiments=None, overrides=every, json=as_json, no_measure=True)) == 0
        return capsys.readouterr().out

    return run


def stages_of(compose, *overrides):
    """Each point's stages."""
    points = compose([V1, *overrides])
    graph = plan_study(points, ["f" * 16] * len(points))
    return [[graph.nodes[identifier].stage for identifier, _ in point.chain] for point in graph.points]


def test_the_first_has_the_published_schedule_and_seven_milestones(compose):
    [[stage]] = stages_of(compose, "recipe=tinyllama_v1")
    assert stage.batch_tokens == 2048 * 1024
    assert stage.schedule.warmup_tokens == 2000 * stage.batch_tokens
    ends = (stage.schedule.warmup_tokens, stage.end_tokens)
    # The last steps of the warm-up and of all.
    assert [learning_rate(stage.schedule, end - stage.batch_tokens, stage.batch_tokens) for end in ends] == (
        pytest.approx([4e-4, 4e-5])
    )
    assert len(stage.milestones) == 7
    assert stage.milestones == pytest.approx([105e9, 503e9, 1e12, 1.5e12, 2e12, 2.5e12, 3e12], rel=0.007)
    published_steps = [50_000, 240_000, 480_000, 715_000, 955_000, 1_195_000]
    assert [tokens / stage.batch_tokens for tokens in stage.milestones[:-1]] == published_steps
    assert stage.milestones[-1] == stage.end_tokens == 1_430_511 * stage.batch_tokens


def test_the_second_has_three_stages_and_its_family_shares_the_first_of_them(compose):
    family = stages_of(compose, FAMILY, V1_1)
    assert len({id(stages[0]) for stages in family}) == 1
    for basic, continual, cooldown in family:
        ends = [stage.end_tokens for stage in (basic, continual, cooldown)]
        assert ends == pytest.approx([1.5e12, 1.85e12, 2e12], rel=1e-5)
        assert [round(stage.batch_tokens / 1e6, 1) for stage in (basic, continual, cooldown)] == [1.8, 1.8, 7.2]
        assert cooldown.batch_sequences == 4 * basic.batch_sequences
        assert learning_rate(
            cooldown.schedule, ends[-1] - cooldown.batch_tokens, cooldown.batch_tokens
        ) == pytest.approx(4e-5)


@pytest.mark.parametrize(
    ("recipe", "final"),
    [
        ("tinyllama_v1_1", {"slimpajama": 100}),
        ("tinyllama_v1_1_math_code", {"slimpajama": 75, "starcoder": 15, "proof_pile": 10}),
        ("tinyllama_v1_1_chinese", {"slimpajama": 50, "skypile": 50}),
    ],
)
def test_other_domains_are_ramped_in_over_six_billion_tokens(compose, recipe, final):
    [[basic, continual, cooldown]] = stages_of(compose, f"recipe={recipe}", V1_1)
    names = tuple(sorted(cooldown.stream.sources))
    mixture = Mixture(cooldown.stream.mixture, names)

    def share(begin, end):
        before, after = (mixture.integral(tokens // 2048) for tokens in (begin, end))
        drawn = [a - b for a, b in zip(after, before, strict=True)]
        return {name: tokens / sum(drawn) for name, tokens in zip(names, drawn, strict=True) if tokens}

    start, ramp = basic.end_tokens, 6_000_000_000
    assert share(0, start) == {"slimpajama": 1}
    during = {name: Fraction(percent, 200) for name, percent in final.items() if name != "slimpajama"}
    assert {name: float(value) for name, value in share(start, start + ramp).items() if name in during} == (
        pytest.approx({name: float(value) for name, value in during.items()}, rel=1e-5)
    )
    after = {name: Fraction(percent, 100) for name, percent in final.items()}
    assert share(start + ramp + 2048, continual.end_tokens) == after
    assert share(continual.end_tokens, cooldown.end_tokens) == after


def test_the_plan_counts_as_by_hand_in_seconds_without_data_or_network(plan):
    began = time.monotonic()
    values = json.loads(plan(V1, "recipe=tinyllama_v1", as_json=True))
    assert time.monotonic() - began < 10
    tokens = 1_430_511 * 2048 * 1024
    assert pytest.approx(7.31e9, rel=1e-3) == FLOPS_A_TOKEN  # as the plan has it, rounded
    assert values["tokens_to_train"] == tokens
    assert values["flops_to_train"] == pytest.approx(FLOPS_A_TOKEN * tokens, rel=1e-12)
    assert values["flops_to_train"] == pytest.approx(7.31e9 * 3e12, rel=1e-3)
    assert values["cluster"]["gpu_hours"] == pytest.approx(tokens / 24_000 / 3600)
    assert values["cluster"]["hours_longest_chain"] == pytest.approx(tokens / 24_000 / 3600 / 16)
    [stage] = values["cluster"]["stages"].values()
    assert (stage["nodes"], stage["gpus_per_node"]) == (2, 8)
    assert stage["peak_memory_bytes"] < 40e9
    assert values["evaluations"] == 14  # seven checkpoints, two suites
    assert values["points"][0]["epochs"] is None


def test_the_plan_has_the_published_hours_beside_its_own(plan):
    said = plan(V1)
    assert "about 57,870 GPU hours" in said
    assert "speed of tinyllama_1b: 24,000 tokens/s a process (176 TFLOP/s)" in said
    [line] = [line for line in said.splitlines() if line.startswith("published: ")]
    assert "3,456 hours of A100-40G for 300B tokens of tinyllama_1b" in line
    assert "57,600 for the 5,000B tokens" in line
    assert "published: " not in plan(V1, "published_cost=null")


def test_a_hub_that_does_not_answer_is_asked_once_and_said(plan, api, compose):
    said = plan(V1, "recipe=tinyllama_v1_1", V1_1)
    [line] = [line for line in said.splitlines() if "not known without the hub" in line]
    assert "files not known without the hub, beginning with source 'slimpajama' (cerebras/SlimPajama-627B)" in line
    assert "not prepared" in said
    assert "provisional" in said
    assert api.asked == 1
    with pytest.raises(ValueError, match=r"^[^\n]*the hub does not answer"):
        make_facts(compose([V1, "recipe=tinyllama_v1_1", V1_1]))


def test_what_the_hub_does_not_have_stops_the_plan(plan, api):
    response = SimpleNamespace(status_code=404, headers={}, request=None)
    api.error = RepositoryNotFoundError("no such thing", response=response)
    with pytest.raises(
        ValueError, match=r"^the hub does not list data set 'cerebras/SlimPajama-627B' at commit 2d0accdd"
    ):
        plan(V1, "recipe=tinyllama_v1_1", V1_1)


def test_a_missing_tokenizer_is_said_by_the_plan_and_stops_a_launch(plan, compose):
    assert "tokenizer.path='tokenizer.model' is not there" in plan(V1)
    with pytest.raises(ValueError, match=r"tokenizer\.path='tokenizer\.model' is not there"):
        make_facts(compose([V1]))


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [({"gpu_hours": 0}, "gpu_hours=0"), ({"tokens": 0}, "tokens=0"), ({"source": " "}, "source=' '")],
)
def test_a_published_cost_of_nothing_is_refused(settings, refusal):
    given = {"model": "m", "gpu": "g", "gpu_hours": 1.0, "tokens": 1, "source": "s"}
    with pytest.raises(ValueError, match=refusal):
        PublishedCost(**{**given, **settings})


def test_files_that_are_missing_stop_the_plan_as_ever(plan):
    with pytest.raises(ValueError, match=r"^[^\n]*nowhere"):
        plan(V1, "recipe=cosine", "tokens=3T", "data=dolma", "data.sources.text.path=nowhere")
