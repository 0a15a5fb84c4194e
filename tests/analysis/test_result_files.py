import copy
import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest

from analysis.reference.result_files import metric_name, read_result_file

spec = importlib.util.spec_from_file_location("result_trees", Path(__file__).with_name("result_trees.py"))
trees = sys.modules["result_trees"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trees)


def read(tmp_path, document, name="results.json"):
    (tmp_path / name).write_text(json.dumps(document))
    return read_result_file(tmp_path / name)


def test_todays_format(tmp_path):
    file = read(tmp_path, trees.NEW)
    found = {metric: (score.task, score.value, score.stderr) for metric, score in file.scores.items()}
    assert found.pop("piqa/acc_norm")[:2] == ("piqa", 0.61)
    assert found.pop("wikitext/word_perplexity")[:2] == ("wikitext", 20.0)
    assert found == {
        "piqa/acc": ("piqa", 0.6, 0.011),
        "gsm8k/exact_match/strict-match": ("gsm8k", 0.02, 0.004),
        "gsm8k/exact_match/flexible-extract": ("gsm8k", 0.03, 0.005),
        "lambada_openai/perplexity": ("lambada_openai", 12.5, 0.4),
        "lambada_openai/acc": ("lambada_openai", 0.4, 0.007),
        "mmlu/acc": ("mmlu", 0.25, 0.0036),
    }
    assert math.isnan(file.scores["piqa/acc_norm"].stderr)
    assert math.isnan(file.scores["wikitext/word_perplexity"].stderr)
    assert file.left_out == ("wikitext/bits_per_byte",)
    assert (file.model, file.revision, file.date) == ("org/small", "step1000", 1_700_000_000.5)
    assert (file.shots["gsm8k"], file.shots["piqa"]) == (5, 0)


def test_format_before_04(tmp_path):
    file = read(tmp_path, trees.OLD)
    assert {metric: (score.value, score.stderr) for metric, score in file.scores.items()} == {
        "piqa/acc": (0.6, 0.011),
        "piqa/acc_norm": (0.61, 0.012),
        "lambada_openai/perplexity": (12.5, 0.4),
        "lambada_openai/acc": (0.4, 0.007),
    }
    assert (file.model, file.revision, file.date) == ("org/small", "step1000", None)
    assert file.shots == {"piqa": 0, "lambada_openai": 0}
    assert file.where == "org/small@step1000 results.json"


def test_date_from_the_name_and_model_from_the_folder(tmp_path):
    document = {"results": trees.OLD["results"]}
    file = read(tmp_path, document, "results_2024-05-06T07-08-09.123.json")
    assert file.date == 1_714_979_289
    assert (file.model, file.revision) == (tmp_path.name, "")


def test_adapters_on_one_base_are_different_models(tmp_path):
    document = copy.deepcopy(trees.NEW)
    document["config"]["model_args"] = "pretrained=org/small,peft=org/adapter"
    assert read(tmp_path, document).model == "org/small+org/adapter"


def test_eval_id_changes_with_what_was_asked(tmp_path):
    first = read(tmp_path, trees.OLD)
    other = copy.deepcopy(trees.OLD)
    other["results"]["piqa"]["acc"] = 0.7
    assert read(tmp_path, other).eval_id == first.eval_id
    for change in ({"versions": {"piqa": 1}}, {"config": {**trees.OLD["config"], "num_fewshot": 5}}):
        assert read(tmp_path, {**trees.OLD, **change}).eval_id != first.eval_id
    assert read(tmp_path, {**trees.OLD, "eval_id": "own"}).eval_id == "own"


def test_what_is_no_result_file(tmp_path):
    assert read(tmp_path, {"architectures": ["Llama"]}) is None
    assert read(tmp_path, [1, 2]) is None


@pytest.mark.parametrize("text", ["", "{", '{"results": ', "\x00\x01"])
def test_an_unreadable_file_is_named(tmp_path, text):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json is not valid JSON .*: repair it or move it away"):
        read_result_file(tmp_path / "broken.json")


def test_bytes_that_are_no_text_and_folders_are_named(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ValueError, match=r"binary\.json is not valid JSON"):
        read_result_file(tmp_path / "binary.json")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_result_file(tmp_path)
    with pytest.raises(ValueError, match="its results are not a table of scores"):
        read(tmp_path, {"results": {"piqa": 0.5}})


def test_names_are_those_of_the_tracking_store():
    """A checkpoint of this project is named alike whether its results come from MLflow or from the file."""
    from workbench.tracking import spool

    for task, key in (
        ("piqa", "acc_norm,none"),
        ("gsm8k", "exact_match,strict-match"),
        ("heldout_prose", "bits_per_byte,none"),
        ("heldout_prose_last_word", "acc,none"),
        ("heldout_code_continuation", "acc,none"),
        ("humaneval", "pass@1,create_test"),
    ):
        assert metric_name(task, key) == spool.metric_name(task, key)
    assert metric_name("lambada_openai", "ppl") == "lambada_openai/perplexity"
