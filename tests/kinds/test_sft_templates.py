"""A tokenizer's own chat template in a study, and the template that a tuned checkpoint carries."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer, GenerationConfig

from workbench.data.chat_store import find_named
from workbench.data.chat_templates import ChatTemplate
from workbench.data.store import open_prepared
from workbench.evaluate.outside_checkpoint import place_results, read_imported
from workbench.evaluate.reconcile import EvaluationError, Evaluator
from workbench.study.study_record import read_record
from workbench.train.checkpoint import checkpoints_by_tokens
from workbench.train.export import export_checkpoint

OWN = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}"
    "{% endgeneration %}{% else %}{{ m.role + ': ' + m.content + '\\n' }}{% endif %}{% endfor %}"
)
LOUD = OWN.replace("m.role + ': '", "m.role + '! '")


@pytest.fixture
def tokenizer(outputs, tmp_path):
    """Copy the prepared corpus's tokenizer, with a chat template in one of the places that `transformers` reads."""
    made = [path for path in (outputs / "data").iterdir() if (path / "manifest.json").exists()]
    store = next(path for path in made if not (path / "tokenizer" / "chat_template.jinja").exists())

    def make(template, place="chat_template.jinja"):
        folder = tmp_path / f"tokenizer{len(list(tmp_path.glob('tokenizer*')))}"
        shutil.copytree(open_prepared(store).tokenizer_dir, folder)
        if place == "chat_template.jinja":
            (folder / place).write_text(template)
        elif template is not None:
            named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
            values = json.loads((folder / "tokenizer_config.json").read_text())
            values["chat_template"] = template if place == "config" else named
            (folder / "tokenizer_config.json").write_text(json.dumps(values))
        return [
            "tokenizer=llama2",
            f"tokenizer.path={folder}",
            f"tokenizer.vocab_size={open_prepared(store).vocab_size}",
        ]

    return make


def tuned(facts):
    return [node for node in facts.plan.nodes.values() if node.stage.kind == "sft"][-1]


def ends(facts, node):
    return checkpoints_by_tokens(facts.layout.stage(node.id))[node.stage.end_tokens]


def conversations_of(facts):
    stage = tuned(facts).stage
    return find_named(stage.conversations, stage.data_fingerprint, facts.layout)


def heldout_of(facts):
    return [json.loads(line) for line in conversations_of(facts).heldout_path.read_text().splitlines()]


@pytest.mark.parametrize("place", ["chat_template.jinja", "config", "named"])
def test_a_tokenizers_own_template_is_what_a_study_trains_on(tune, run_local, tokenizer, place):
    facts = tune("sft", "then.chat.chat.template=tokenizer", *tokenizer(OWN, place), "data.heldout_percent=12")
    assert heldout_of(facts)[0]["prompt"].startswith("user: ")
    prepared = open_prepared(facts.layout.data(tuned(facts).stage.data_fingerprint))
    assert (prepared.tokenizer_dir / "chat_template.jinja").read_text() == OWN
    run_local(facts)
    assert tuned(facts).stage.end_tokens in checkpoints_by_tokens(facts.layout.stage(tuned(facts).id))


def test_a_template_that_begins_some_conversations_alone_is_refused(tune, tokenizer):
    """The template that a checkpoint carries could not be made to begin the others."""
    mixed = "{% if messages[0].role == 'system' %}{{ bos_token }}{% endif %}" + OWN
    with pytest.raises(ValueError, match="writes <s> before some conversations alone"):
        tune("sft", "then.chat.chat.template=tokenizer", *tokenizer(mixed), "data.heldout_percent=14")


@pytest.mark.parametrize(
    "source",
    [
        OWN,
        "{{ bos_token }}" + OWN,
        "<s>" + OWN,
        "{% set bos = bos_token %}{{ bos }}" + OWN,
        OWN + "{# bos_token #}",
        "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}" + OWN,
    ],
)
def test_a_checkpoints_template_begins_every_conversation_once(tokenizer, source):
    folder = Path(next(setting for setting in tokenizer(source) if setting.startswith("tokenizer.path=")).split("=")[1])
    template = ChatTemplate("tokenizer", folder).with_beginning
    loaded = AutoTokenizer.from_pretrained(folder)
    loaded.chat_template = template
    text = loaded.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert text.startswith("<s>user: a")


def test_another_template_is_another_stage_on_the_same_data(tune, tokenizer):
    """Stores are named without the template: each study renders by its own, whichever made the store."""
    first, second = (tune("sft", "then.chat.chat.template=tokenizer", *tokenizer(text)) for text in (OWN, LOUD))
    assert tuned(first).stage.data_fingerprint == tuned(second).stage.data_fingerprint
    assert tuned(first).id != tuned(second).id
    assert first.plan.evaluation != second.plan.evaluation
    assert [heldout_of(facts)[0]["prompt"][:6] for facts in (first, second)] == ["user: ", "user! "]
    again = tune("sft", "then.chat.chat.template=tokenizer", *tokenizer(OWN, "config"))
    assert tuned(again).id == tuned(first).id


def test_a_template_that_is_not_used_changes_no_name(tune, tokenizer):
    plain, own = (tune("sft", *tokenizer(text, "config")) for text in (None, OWN))
    assert list(plain.plan.nodes) == list(own.plan.nodes)
    assert plain.plan.evaluation == own.plan.evaluation


def test_a_tokenizer_without_a_template_is_refused_when_planned(tune, tokenizer):
    with pytest.raises(ValueError, match=r"tokenizer0 has no chat_template: set chat.template to one of") as raised:
        tune("sft", "then.chat.chat.template=tokenizer", *tokenizer(None, "config"))
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"the tokenizer that is trained here has no chat_template: set chat.template"):
        tune("sft", "then.chat.chat.template=tokenizer")


def test_a_template_that_prints_todays_date_needs_one(tune, tokenizer):
    dated = "{{ strftime_now('%d %b %Y') + '\\n' }}" + OWN
    settings = ["then.chat.chat.template=tokenizer", *tokenizer(dated), "data.heldout_percent=16"]
    with pytest.raises(ValueError, match=r"prints today's date.* set then.chat.chat.template_date to") as raised:
        tune("sft", *settings)
    assert "\n" not in str(raised.value)
    first, second = (tune("sft", *settings, f"then.chat.chat.template_date='{day} May 2025'") for day in (1, 2))
    assert tuned(first).id != tuned(second).id
    assert [heldout_of(facts)[0]["prompt"].splitlines()[0] for facts in (first, second)] == ["1 May 2025", "2 May 2025"]


@pytest.mark.parametrize("then", ["sft", "sft_lora"])
@pytest.mark.parametrize(
    ("template", "begin"),
    [(name, "bos") for name in ("llama2", "zephyr", "chatml", "tokenizer")] + [("zephyr", "template")],
)
def test_a_tuned_checkpoint_renders_what_it_was_trained_on(
    tune, run_local, tokenizer, conversations, tmp_path, template, begin, then
):
    more = tokenizer(OWN) if template == "tokenizer" else []
    facts = tune(then, f"then.chat.chat.template={template}", f"then.chat.chat.begin={begin}", *more)
    run_local(facts, evaluate=False)
    export_checkpoint(ends(facts, tuned(facts)), tmp_path / "exported")
    store = conversations_of(facts)
    trained = {tuple(store.conversation(i)[0].tolist()) for i in range(store.manifest["conversations"])}
    read = [json.loads(line)["messages"] for line in conversations.read_text().splitlines()]
    for directory in (ends(facts, tuned(facts)), tmp_path / "exported"):
        loaded = AutoTokenizer.from_pretrained(directory)
        rendered = {tuple(loaded.apply_chat_template(turns, return_dict=False)) for turns in read}
        assert trained <= rendered
        asked = {
            tuple(loaded.apply_chat_template(turns[:i], add_generation_prompt=True, return_dict=False))
            for turns in read
            for i in (1, 3)
        }
        assert {tuple(row["prompt_tokens"]) for row in heldout_of(facts)} <= asked


def test_a_tuned_checkpoint_from_outside_is_tuned_on_by_its_own_template(tune, run_local, tmp_path):
    facts = tune("sft")
    run_local(facts, evaluate=False)
    export_checkpoint(ends(facts, tuned(facts)), tmp_path / "exported")
    begin = ["init=hf", f"init.path={tmp_path / 'exported'}", "init.tokens=1M", "tokens=0"]
    again = tune("sft_lora", *begin, "then.chat.chat.template=tokenizer")
    stores = [conversations_of(one) for one in (facts, again)]
    assert stores[0].fingerprint != stores[1].fingerprint
    for name in ("tokens.bin", "loss.bin", "order.bin"):
        assert len({(store.directory / name).read_bytes() for store in stores}) == 1
    run_local(again, evaluate=False)
    [files] = {tuple((ends(one, tuned(one)) / "chat_template.jinja").read_text() for one in (facts, again))}
    assert files[0] == files[1]
    adapters = json.loads((ends(again, tuned(again)) / "adapter" / "adapter_config.json").read_text())
    assert adapters["base_model_name_or_path"] == str((tmp_path / "exported").resolve())


@pytest.mark.parametrize("then", ["sft", "sft_lora"])
def test_what_ends_a_turn_ends_what_a_tuned_model_writes(tune, run_local, tokenizer, tmp_path, then):
    marked = OWN.replace("eos_token", "'<|im_end|>'")
    settings = tokenizer(marked)
    folder = Path(settings[1].removeprefix("tokenizer.path="))
    loaded = AutoTokenizer.from_pretrained(folder)
    loaded.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    loaded.save_pretrained(folder)
    settings[2] = f"tokenizer.vocab_size={len(loaded)}"
    facts = tune(then, "then.chat.chat.template=tokenizer", *settings, "data.heldout_percent=18")
    run_local(facts, evaluate=False)
    ends_with = [loaded.eos_token_id, loaded.convert_tokens_to_ids("<|im_end|>")]
    export_checkpoint(ends(facts, tuned(facts)), tmp_path / "exported")
    assert GenerationConfig.from_pretrained(tmp_path / "exported").eos_token_id == ends_with
    base = facts.plan.nodes[tuned(facts).stage.parent.stage]
    assert GenerationConfig.from_pretrained(ends(facts, base)).eos_token_id == ends_with[0]
    lm = Evaluator(facts.layout, facts.plan.evaluation)._load_lm(
        ends(facts, tuned(facts)), facts.plan.evaluation.suites["chat"]
    )
    assert lm.generator.eos_ids == set(ends_with)


def test_scores_of_text_do_not_take_a_templates_marks_for_tokens(tune, run_local):
    """The tuned checkpoint's own tokenizer reads `</s>` as a token, as its template needs; held-out text does not."""
    facts = tune("sft")
    run_local(facts, evaluate=False)
    evaluator, node = Evaluator(facts.layout, facts.plan.evaluation), tuned(facts)
    base = checkpoints_by_tokens(facts.layout.stage(node.stage.parent.stage))[node.stage.start_tokens]
    alone = [evaluator._load_tokenizer(one)[0]("a </s> b").input_ids for one in (base, ends(facts, node))]
    assert alone[0] == alone[1]
    assert AutoTokenizer.from_pretrained(ends(facts, node))("a </s> b").input_ids != alone[0]


def test_an_evaluation_of_conversations_is_named_by_their_tokenizer(tune):
    """Their ids are rendered by it, and neither the held-out text nor the conversations' name says which it was."""
    records = []
    for size in (512, 400):
        facts = tune("sft", f"tokenizer.vocab_size={size}", f"study=ids{size}")
        records.append((facts.plan.evaluation, read_record(facts.layout, f"ids{size}")["evaluation_ids"]))
    assert records[0][0] == records[1][0]
    assert records[0][1]["heldout"] == records[1][1]["heldout"]
    assert records[0][1]["chat"] != records[1][1]["chat"]


def test_ids_of_conversations_are_not_put_to_a_model_of_another_tokenizer(tune, run_local, tmp_path, monkeypatch):
    facts = tune("sft")
    run_local(facts)
    other = tune("sft", "tokenizer.vocab_size=400")
    run_local(other, evaluate=False)
    store = open_prepared(facts.layout.data(tuned(facts).stage.data_fingerprint))
    evaluator = Evaluator(facts.layout, facts.plan.evaluation)
    places = []
    for number, one in enumerate((facts, other)):
        export_checkpoint(ends(one, tuned(one)), tmp_path / str(number))
        imported = read_imported(tmp_path / str(number))
        places.append(place_results(facts.layout, imported, (store.fingerprint, store.heldout_fingerprint)))
    result = json.loads(evaluator.evaluate(places[0], "chat").read_text())
    [path] = [
        path for path in (ends(facts, tuned(facts)) / "evals").glob("chat-*.json") if "documents" not in path.name
    ]
    assert result["results"] == json.loads(path.read_text())["results"]
    with pytest.raises(EvaluationError, match="its tokenizer is another than the one of the conversations"):
        evaluator.evaluate(places[1], "chat")
    load = evaluator._load_tokenizer
    vocabulary = load(places[0] / "tokenizer")[0].get_vocab()
    more = SimpleNamespace(get_vocab=lambda: {**vocabulary, "[PAD]": len(vocabulary)})  # which no conversation has
    monkeypatch.setattr(
        evaluator, "_load_tokenizer", lambda path: (more, {}) if path.parent == places[0] else load(path)
    )
    evaluator._check_vocabulary(places[0])
    del vocabulary["<s>"]
    with pytest.raises(EvaluationError, match="its tokenizer is another"):
        evaluator._check_vocabulary(places[0])


@pytest.mark.parametrize("sweep", ["then.chat.chat.template=zephyr,chatml", "then.chat.context_tokens=64,128"])
def test_a_sweep_of_conversations_is_refused_in_one_line(tune, sweep):
    with pytest.raises(ValueError, match="give each a study of its own") as raised:
        tune("sft", sweep)
    assert "\n" not in str(raised.value)
    assert "'chat'" in str(raised.value)
    assert len(tune("sft", sweep, "~evaluation.suites.chat").plan.points) == 2
