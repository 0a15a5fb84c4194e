"""A checkpoint from outside as the beginning of a chain: scored, continued, tracked and exported as any stage."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests.kinds.imported_studies import TOKENS, imported
from tests.kinds.sentencepiece_like import write_llama_like
from tests.model.test_pretrained import FAMILIES
from workbench.data.store import open_prepared
from workbench.evaluate.outside_checkpoint import place_results, read_imported
from workbench.evaluate.reconcile import Evaluator
from workbench.forecast.study_facts import make_facts, pending_evaluations
from workbench.model.generation_file import read_stop_ids
from workbench.model.weights import load_model
from workbench.study.evaluation_files import read_result
from workbench.study.flops import training_flops_per_token
from workbench.study.identity import stage_id
from workbench.tracking.intended import read_study
from workbench.train.checkpoint import checkpoints_by_tokens, read_manifest, verify
from workbench.train.export import export_checkpoint
from workbench.train.whole_stage import train_stage


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_is_continued_and_comes_back_out(begin, run_local, checkpoint, tmp_path, name):
    directory = checkpoint(name)
    facts = begin(directory, "tokens=2048")
    run_local(facts, evaluate=False)
    base = imported(facts)
    [path] = checkpoints_by_tokens(facts.layout.stage(base.id)).values()
    tokens = torch.arange(7, 27)[None]
    expected = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)(tokens).logits
    last = list(facts.plan.nodes)[-1]
    end = checkpoints_by_tokens(facts.layout.stage(last))[facts.plan.nodes[last].stage.end_tokens]
    for source, name_of in ((path, "base"), (end, "continued")):
        export_checkpoint(source, tmp_path / name_of)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "base")(tokens).logits
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=0)
    continued = AutoModelForCausalLM.from_pretrained(tmp_path / "continued")(tokens).logits
    assert (continued - expected).abs().max() > 1e-3  # it was trained


def test_ids_that_end_a_text_survive(begin, run_local, checkpoint, tmp_path):
    """An instruct model's end of turn, beside its end of sequence."""
    directory = checkpoint("llama2")
    eos = AutoTokenizer.from_pretrained(directory).eos_token_id
    values = {"bos_token_id": 0, "eos_token_id": [eos + 9, eos, eos + 7]}
    (directory / "generation_config.json").write_text(json.dumps(values))
    facts = begin(directory, "tokens=10240", "then=average", "then.average.checkpoints=2", "then.average.span=0.6")
    run_local(facts, evaluate=False)
    kinds = set()
    for number, (name, node) in enumerate(facts.plan.nodes.items()):
        for path in checkpoints_by_tokens(facts.layout.stage(name)).values():
            export_checkpoint(path, tmp_path / f"{number}{path.name}")
            config = GenerationConfig.from_pretrained(tmp_path / f"{number}{path.name}")
            assert config.eos_token_id == [eos, eos + 9, eos + 7]
            kinds.add(node.stage.kind)
    assert kinds == {"imported", "pretrain", "average"}
    (directory / "generation_config.json").write_text('{"eos_token_id": ["</s>"]}')
    with pytest.raises(ValueError, match=r"generation_config.json: eos_token_id=\['</s>'\] is no list of ids"):
        read_stop_ids(directory)


def test_tokens_and_flops_count_on_from_those_of_elsewhere(begin, run_local, checkpoint):
    facts = begin(checkpoint("llama2"), "tokens=2048", "init.context_tokens=32")
    run_local(facts, evaluate=False)
    base, *trained = facts.plan.nodes.values()
    assert [node.stage.kind for node in trained] == ["pretrain", "pretrain"]
    assert trained[0].stage.start_tokens == 1_000_000
    assert trained[-1].stage.end_tokens == 1_002_048
    found = checkpoints_by_tokens(facts.layout.stage(trained[-1].id))
    manifest = read_manifest(found[1_002_048])
    per_token = training_flops_per_token(base.stage.model)
    assert manifest["flops"] == per_token * 1_002_048 == facts.plan.points[0].flops
    assert manifest["annealed"] is True
    assert sum(count["drawn_tokens"] for count in manifest["counts"].values()) == 2048
    rows = [json.loads(line) for line in facts.layout.stage(trained[0].id).metrics.read_text().splitlines()]
    assert rows[0]["train/learning_rate"] > 0
    assert (rows[0]["step"], rows[0]["tokens"]) == (1, 1_000_256)


def test_its_scores_are_those_of_the_checkpoint_itself(begin, run_local, checkpoint, tmp_path):
    directory = checkpoint("pythia")
    facts = begin(directory, "tokens=0")
    run_local(facts)
    assert not pending_evaluations(facts)
    [path] = checkpoints_by_tokens(facts.layout.stage(imported(facts).id)).values()
    [ours] = [p for p in (path / "evals").glob("*.json") if not p.name.endswith(".documents.json")]
    manifest = read_manifest(path)
    data = manifest["data_fingerprint"], manifest["heldout_fingerprint"]
    folder = place_results(facts.layout, read_imported(directory), data)
    theirs = Evaluator(facts.layout, facts.plan.evaluation).evaluate(folder, "embedded")
    assert json.loads(ours.read_text())["results"] == json.loads(theirs.read_text())["results"]
    assert read_result(ours, json.loads(ours.read_text())["eval_id"]) is not None


def test_both_roads_read_text_alike(begin, run_local, checkpoint, outputs):
    """A Llama's tokenizer as `tokenizer.json` has it; `transformers`' own class for it drops one of two leading spaces."""
    # Other tests leave stores of tokenizers with templates and named tokens beside it.
    stores = [path for path in (outputs / "data").iterdir() if (path / "manifest.json").exists()]
    store = next(path for path in sorted(stores) if not list(path.rglob("chat_template.jinja")))
    texts = [line for path in sorted((store / "heldout").glob("*.jsonl")) for line in path.read_text().splitlines()]
    directory = checkpoint("tinyllama", max_position_embeddings=256)
    assert write_llama_like(directory, texts) <= open_prepared(store).vocab_size
    facts = begin(directory, "tokens=0")
    run_local(facts)
    [path] = checkpoints_by_tokens(facts.layout.stage(imported(facts).id)).values()
    [ours] = [p for p in (path / "evals").glob("*.json") if not p.name.endswith(".documents.json")]
    manifest = read_manifest(path)
    folder = place_results(
        facts.layout, read_imported(directory), (manifest["data_fingerprint"], manifest["heldout_fingerprint"])
    )
    evaluator = Evaluator(facts.layout, facts.plan.evaluation)
    theirs = evaluator.evaluate(folder, "embedded")
    assert json.loads(ours.read_text())["results"] == json.loads(theirs.read_text())["results"]
    first, second = (evaluator._load_lm(place, facts.plan.evaluation.suites["embedded"]) for place in (path, folder))
    for text in ("  two  leading", "x</s>y <s>", " one", "a\n\tb", "naïve 东京 🙂", ""):
        assert first.tok_encode(text) == second.tok_encode(text), text
    assert first.prefix_token_id == second.prefix_token_id == first.tok_encode("a")[0] == 1
    assert first.eot_token_id == second.eot_token_id == 2


def test_it_is_recorded_as_what_it_is(begin, run_local, checkpoint):
    directory = checkpoint("llama2")
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    facts = begin(directory, "init.name=made", "tokens=2048")
    run_local(facts)
    record = read_study(facts.layout, facts.plan.study)
    first, *others = record.stages
    assert first.params["fingerprint"] == read_imported(directory).fingerprint
    assert first.tags["stage_kind"] == "imported"
    assert {stage.tags["kinds"] for stage in others} == {"imported>pretrain"}
    assert {stage.tags["model"] for stage in record.stages} == {"made"}
    assert [checkpoint.params["tokens"] for checkpoint in first.checkpoints] == ["1000000"]
    [path] = checkpoints_by_tokens(facts.layout.stage(first.id)).values()
    assert verify(path)["licence"] == "apache-2.0"


def test_files_that_changed_after_planning_are_refused(begin, checkpoint):
    directory = checkpoint("llama2")
    facts = begin(directory, "tokens=0")
    checkpoint("llama2", hidden_act="silu", rms_norm_eps=1e-4)
    with pytest.raises(ValueError, match="has changed since this was planned"):
        train_stage(facts.layout, imported(facts).id)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["init=hf", "init.tokens=5"], "needs init.path"),
        (["init=hf", "init.path=/nowhere/at/all", "init.tokens=5"], "neither a directory nor a name"),
        (["init=hf", "init.path=x"], "needs init.tokens"),
        (["init.path=x"], "set init=hf, too"),
        (["tokens=0"], "at least 1"),
    ],
)
def test_what_is_no_beginning_is_one_line(compose, overrides, experiments, settings, message):
    with pytest.raises(ValueError, match=message):
        make_facts(compose([*overrides, *settings], experiments))


def test_points_that_it_makes_equal_are_refused(compose, overrides, experiments, checkpoint):
    points = compose(
        [*overrides, "init=hf", f"init.path={checkpoint('llama2')}", *TOKENS, "model=m0_03,m0_1"], experiments
    )
    with pytest.raises(ValueError, match="brings its own model"):
        make_facts(points)


def test_a_context_may_be_shorter_and_not_longer(compose, overrides, experiments, checkpoint):
    settings = [*overrides, "init=hf", f"init.path={checkpoint('llama2')}", *TOKENS, "tokens=0"]
    facts = make_facts(compose([*settings, "init.context_tokens=16"], experiments))
    assert imported(facts).stage.model.context_tokens == 16
    with pytest.raises(ValueError, match="longer than the checkpoint's context"):
        make_facts(compose([*settings, "init.context_tokens=4096"], experiments))


def test_its_context_may_be_extended(begin, run_local, checkpoint):
    longer = ["then=extend", "then.extend.context_tokens=128", "then.extend.method=yarn", "then.extend.tokens=2048"]
    facts = begin(checkpoint("llama2", max_position_embeddings=32), "tokens=0", *longer)
    run_local(facts, evaluate=False)
    base, scaled, trained = (node.stage for node in facts.plan.nodes.values())
    assert [stage.kind for stage in (base, scaled, trained)] == ["imported", "rescale", "extend"]
    assert scaled.model.rope_scaling.original_context_tokens == 32
    assert (trained.start_tokens, trained.end_tokens) == (1_000_000, 1_002_048)
    [path] = checkpoints_by_tokens(facts.layout.stage(list(facts.plan.nodes)[1])).values()
    tokens = torch.arange(7, 127)[None]
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(tokens).logits
    torch.testing.assert_close(load_model(path)(tokens), theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn"])
def test_a_cut_context_is_not_taken_for_the_trained_one(compose, overrides, experiments, checkpoint, method):
    settings = [*overrides, "init=hf", f"init.path={checkpoint('llama2')}", *TOKENS, "init.context_tokens=16"]
    longer = [*settings, "then=extend", "then.extend.tokens=0", f"then.extend.method={method}"]
    for tokens in ("tokens=0", "tokens=2048"):  # also where it was trained on at the shorter one
        with pytest.raises(ValueError, match=r"cut to 16 of its 48 tokens: leave out init.context_tokens"):
            make_facts(compose([*longer, tokens, "then.extend.context_tokens=128"], experiments))
    for target in (32, 48):
        with pytest.raises(
            ValueError, match=rf"cut to 16 of its 48 tokens, so that {target} need no scaling: take .*none"
        ):
            make_facts(compose([*longer, "tokens=0", f"then.extend.context_tokens={target}"], experiments))


def test_a_cut_context_may_be_raised_again_without_scaling(compose, overrides, experiments, checkpoint):
    settings = [
        *overrides,
        "init=hf",
        f"init.path={checkpoint('llama2')}",
        *TOKENS,
        "init.context_tokens=16",
        "tokens=0",
    ]
    longer = ["then=extend", "then.extend.tokens=0", "then.extend.method=none", "then.extend.context_tokens=48"]
    facts = make_facts(compose([*settings, *longer], experiments))
    base, raised = (node.stage for node in facts.plan.nodes.values())
    assert (base.native_context_tokens, base.model.context_tokens, raised.model.context_tokens) == (48, 16, 48)


def test_a_sliding_window_is_a_cut_context(compose, overrides, experiments, checkpoint):
    settings = [*overrides, "init=hf", f"init.path={checkpoint('mistral', sliding_window=24)}", *TOKENS, "tokens=0"]
    assert imported(make_facts(compose(settings, experiments))).stage.model.context_tokens == 24
    longer = ["then=extend", "then.extend.tokens=0", "then.extend.method=yarn", "then.extend.context_tokens=128"]
    with pytest.raises(ValueError, match=r"reads no further than 24 of its 48 positions at once \(sliding_window\)"):
        make_facts(compose([*settings, *longer], experiments))


def test_the_native_context_is_no_part_of_an_id(compose, overrides, experiments, checkpoint):
    settings = [*overrides, "init=hf", f"init.path={checkpoint('llama2')}", *TOKENS, "tokens=0"]
    stage = imported(make_facts(compose(settings, experiments))).stage
    assert stage_id(stage) == stage_id(replace(stage, native_context_tokens=None))


TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def name_tokens(directory):
    """Name further special tokens in a tokenizer's files, and give it a chat template."""
    path = directory / "tokenizer_config.json"
    unknown = {"mask_token": "<mask>"}  # it has no id
    pad = {"__type": "AddedToken", "content": "</s>", "special": True}
    more = {"pad_token": pad, "additional_special_tokens": ["<unk>"], **unknown}
    path.write_text(json.dumps({**json.loads(path.read_text()), **more, "chat_template": TEMPLATE}))


def test_every_export_has_the_tokens_and_the_template_of_its_tokenizer(begin, run_local, checkpoint, tmp_path):
    directory = checkpoint("llama2")
    bare = begin(directory, "tokens=0")
    run_local(bare, evaluate=False)
    [path] = checkpoints_by_tokens(bare.layout.stage(imported(bare).id)).values()
    assert "pad_token" not in json.loads((path / "tokenizer_config.json").read_text())
    assert not (path / "chat_template.jinja").exists()
    name_tokens(directory)
    facts = begin(directory, "tokens=2048", "then=extend", "then.extend.context_tokens=128", "then.extend.tokens=0")
    assert {n.stage.data_fingerprint for n in facts.plan.nodes.values()} == {imported(bare).stage.data_fingerprint}
    run_local(facts, evaluate=False)
    for number, node in enumerate(facts.plan.nodes.values()):
        last = checkpoints_by_tokens(facts.layout.stage(node.id))[node.stage.end_tokens]
        assert verify(last)
        export_checkpoint(last, tmp_path / f"export_{number}")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / f"export_{number}")
        assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "</s>")
        assert tokenizer.chat_template == TEMPLATE
        values = json.loads((tmp_path / f"export_{number}" / "tokenizer_config.json").read_text())
        assert values["additional_special_tokens"] == ["<unk>"]
        assert "mask_token" not in values
    assert [node.stage.kind for node in facts.plan.nodes.values()] == ["imported", "pretrain", "pretrain", "rescale"]


def test_a_folder_that_moves_keeps_its_stage(compose, overrides, experiments, checkpoint, tmp_path):
    directory = checkpoint("llama2")
    ids = []
    for place in (directory, Path(shutil.copytree(directory, tmp_path / "elsewhere"))):
        settings = ["init=hf", f"init.path={place}", "init.name=same", *TOKENS, "tokens=0"]
        ids.append(stage_id(imported(make_facts(compose([*overrides, *settings], experiments))).stage))
    assert ids[0] == ids[1]
