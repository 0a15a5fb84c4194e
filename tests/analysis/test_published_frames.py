import copy
import importlib.util
import math
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.load import FRAME_COLUMNS
from analysis.reference import load_lm_eval, load_pythia, tinyllama_milestones

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
STEPS = (r"step(\d+)", 1000)
spec = importlib.util.spec_from_file_location("result_trees", Path(__file__).with_name("result_trees.py"))
trees = sys.modules["result_trees"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trees)


def test_both_formats_give_one_frame(tmp_path):
    new, old = copy.deepcopy(trees.NEW), copy.deepcopy(trees.OLD)
    new["config"]["model_args"]["revision"] = "step2000"
    trees.write(tmp_path / "new", a=new)
    trees.write(tmp_path / "old" / "deeper", b=old)
    frame = load_lm_eval(tmp_path, study="reference/x", tokens=STEPS, annealed="last")
    assert tuple(frame.columns) == (*FRAME_COLUMNS, "source")
    rows = frame.set_index(["metric", "tokens"])
    for metric in ("piqa/acc", "piqa/acc_norm", "lambada_openai/perplexity", "lambada_openai/acc"):
        assert rows.loc[(metric, 1_000_000), "value"] == rows.loc[(metric, 2_000_000), "value"]
    assert rows.loc[("piqa/acc", 1_000_000), "checkpoint"] == "org/small@step1000"
    assert rows.loc[("piqa/acc", 1_000_000), "source"] == "old/deeper/b.json"
    assert set(frame["model"]) == set(frame["trajectory"]) == {"small"}
    assert set(frame.loc[frame["annealed"], "tokens"]) == {2_000_000}
    missing = rows.loc[("mmlu/acc", 1_000_000)]
    assert math.isnan(missing["value"])
    assert missing[["eval_id", "source"]].isna().all()
    excluded = frame.attrs["excluded"]
    assert "new/a.json: no number for wikitext/bits_per_byte" in excluded
    assert "kept, but not comparable: version 0 and 1.0 of lambada_openai, piqa" in excluded
    assert "params unknown for small" in excluded


def test_the_later_of_two_results_counts_and_the_other_is_named(tmp_path):
    trees.write(tmp_path, a=trees.old(1, 0.5, date=20.0), b=trees.old(1, 0.4, date=10.0), c=trees.old(2, 0.6))
    frame = load_lm_eval(tmp_path, tokens=STEPS)
    assert frame["value"].tolist() == [0.5, 0.6]
    assert "b.json: 1 results superseded by a.json" in frame.attrs["excluded"]


def test_undated_results_that_disagree_are_refused(tmp_path):
    trees.write(tmp_path, a=trees.old(1, 0.5), b=trees.old(1, 0.5))
    frame = load_lm_eval(tmp_path, tokens=STEPS)
    assert len(frame) == 1
    assert "b.json: 1 results superseded by a.json" in frame.attrs["excluded"]
    trees.write(tmp_path, b=trees.old(1, 0.4))
    with pytest.raises(ValueError, match=r"a\.json and b\.json disagree on piqa/acc of org/small@step1, and no date"):
        load_lm_eval(tmp_path, tokens=STEPS)


def test_results_of_one_checkpoint_may_be_spread(tmp_path):
    trees.write(tmp_path, a=trees.old(1, 0.5), b=trees.old(1, 0.3, task="arc_easy"))
    frame = load_lm_eval(tmp_path, tokens=STEPS)
    assert dict(zip(frame["metric"], frame["value"], strict=True)) == {"arc_easy/acc": 0.3, "piqa/acc": 0.5}
    assert frame["eval_id"].nunique() == 2


def test_few_shot_results_are_not_mixed(tmp_path):
    few = trees.old(2, 0.6)
    few["config"]["num_fewshot"] = 5
    trees.write(tmp_path, zero=trees.old(1, 0.5), few=few)
    with pytest.raises(ValueError, match="piqa was scored with 0 and 5 few-shot examples: choose one with shots="):
        load_lm_eval(tmp_path, tokens=STEPS)
    frame = load_lm_eval(tmp_path, tokens=STEPS, shots=5)
    assert frame["value"].tolist() == [0.6]
    assert "zero.json: 1 results with other than 5 shots" in frame.attrs["excluded"]
    with pytest.raises(ValueError, match="shots=3: no task was scored with that many"):
        load_lm_eval(tmp_path, tokens=STEPS, shots=3)


def test_a_part_of_the_documents_is_said(tmp_path):
    part = trees.old(1, 0.5)
    part["config"]["limit"] = 100
    frame = load_lm_eval(trees.write(tmp_path, part=part), tokens=STEPS)
    assert "kept, but scored on only part of the documents: limit 100" in frame.attrs["excluded"]


def test_a_part_never_replaces_the_whole(tmp_path):
    """A quick look at a hundred documents, later than the full run, or without a date."""
    whole, part = trees.old(1, 0.5, date=10.0), trees.old(1, 0.9, date=20.0)
    part["config"]["limit"] = 100
    for folder, late in (("dated", part), ("undated", {**part, "date": None})):
        frame = load_lm_eval(trees.write(tmp_path / folder, a=whole, b=late), tokens=STEPS)
        assert frame["value"].tolist() == [0.5]
        assert "b.json: 1 results superseded by a.json" in frame.attrs["excluded"]
        frame = load_lm_eval(trees.write(tmp_path / folder, a=late, b=whole), tokens=STEPS)
        assert frame["value"].tolist() == [0.5]


def test_two_models_of_one_name_are_not_merged(tmp_path):
    def at(path, acc):
        return {**trees.old(1, acc), "config": {"model_args": f"pretrained={path}", "num_fewshot": 0}}

    folder = trees.write(tmp_path, a=at("/runs/small/step1000/hf", 0.4), b=at("/runs/large/step1000/hf", 0.6))
    apart = "are both 'hf' at {} tokens: tell them apart with model="
    with pytest.raises(ValueError, match=apart.format("1000000")):
        load_lm_eval(folder, tokens=STEPS)
    with pytest.raises(ValueError, match=apart.format("unknown")):
        load_lm_eval(folder)
    frame = load_lm_eval(folder, model=r"runs/(\w+)/", tokens=STEPS)
    assert dict(zip(frame["model"], frame["value"], strict=True)) == {"small": 0.4, "large": 0.6}
    # Steps of one model that are all called hf are that model's checkpoints.
    steps = trees.write(tmp_path / "one", a=at("/runs/small/step1000/hf", 0.4), b=at("/runs/small/step2000/hf", 0.6))
    assert load_lm_eval(steps, tokens=STEPS)["tokens"].tolist() == [1_000_000, 2_000_000]


def test_facts_by_mapping_and_by_table(tmp_path):
    trees.write(tmp_path, a=trees.old(1, 0.5), b=trees.old(2, 0.6), c=trees.old(3, 0.7, size="large"))
    frame = load_lm_eval(tmp_path, tokens=STEPS, facts={"small": {"params": 10}, "huge": {"params": 99}})
    assert frame.groupby("model")["params"].first().to_dict() == {
        "small": 10,
        "large": pytest.approx(math.nan, nan_ok=True),
    }
    assert frame.attrs["excluded"] == ("params unknown for large",)
    table = pd.DataFrame(
        {
            "model": ["small", "small", "large"],
            "revision": ["step1", "step2", "step4"],
            "tokens": [5e9, math.nan, 7e9],
            "annealed": [False, True, True],
        }
    )
    frame = load_lm_eval(tmp_path, tokens=STEPS, facts=table).set_index("source")
    assert frame["tokens"].to_dict() == {"a.json": 5_000_000_000, "b.json": 2000, "c.json": 3000}
    assert frame["annealed"].to_dict() == {"a.json": False, "b.json": True, "c.json": False}
    assert "facts of model large, revision step4 match no file" in frame.attrs["excluded"]


def test_rules_by_function_and_pattern(tmp_path):
    trees.write(tmp_path / "runs" / "alpha", step_7=trees.old(7, 0.5), step_9=trees.old(9, 0.5))
    frame = load_lm_eval(tmp_path, model=r"runs/(\w+)/", tokens=lambda file: float(file.revision[4:]) * 3)
    assert frame[["model", "tokens"]].to_numpy().tolist() == [["alpha", 21], ["alpha", 27]]
    with pytest.raises(ValueError, match=r"model='tokens/\(x\)' is not found in 'org/small@step7 runs/alpha/step_7"):
        load_lm_eval(tmp_path, model="tokens/(x)")
    with pytest.raises(ValueError, match=r"tokens=\('million\(x\)', 1\) matches no file, such as 'org/small@step7'"):
        load_lm_eval(tmp_path, tokens=("million(x)", 1))
    with pytest.raises(ValueError, match="no group in brackets"):
        load_lm_eval(tmp_path, tokens=("step", 1))
    with pytest.raises(ValueError, match="is not a regular expression"):
        load_lm_eval(tmp_path, tokens=("step(", 1))
    with pytest.raises(ValueError, match=r"finds 'mall@step' in .* which is not a number"):
        load_lm_eval(tmp_path, tokens=("s(mall@step)", 1))


def test_tokens_that_only_some_files_tell_are_said(tmp_path):
    final = trees.old(1, 0.6)
    final["config"]["model_args"] = "pretrained=org/small,revision=main"
    frame = load_lm_eval(trees.write(tmp_path, a=trees.old(1, 0.5), b=final), tokens=STEPS)
    assert frame["tokens"].isna().tolist() == [False, True]
    assert "tokens unknown for 1 of 2 checkpoints, such as org/small@main" in frame.attrs["excluded"]


def test_wrong_facts_are_refused(tmp_path):
    trees.write(tmp_path, a=trees.old(1, 0.5))
    with pytest.raises(ValueError, match="facts: unknown column 'size'"):
        load_lm_eval(tmp_path, facts={"small": {"size": 5}})
    with pytest.raises(ValueError, match="none of the key columns"):
        load_lm_eval(tmp_path, facts=pd.DataFrame({"params": [1]}))
    with pytest.raises(ValueError, match="params='many' is not a number"):
        load_lm_eval(tmp_path, facts={"small": {"params": "many"}})
    with pytest.raises(ValueError, match=r"params of a\.json is 1 and 2"):
        load_lm_eval(tmp_path, facts=pd.DataFrame({"model": ["small", "small"], "params": [1, 2]}))


def test_folders_without_results(tmp_path):
    with pytest.raises(ValueError, match="there is no such file or folder"):
        load_lm_eval(tmp_path / "none")
    trees.write(tmp_path, config={"hidden_size": 8})
    with pytest.raises(ValueError, match=r"holds no lm-eval results \(1 JSON files\)"):
        load_lm_eval(tmp_path)
    trees.write(tmp_path, a=trees.old(1, 0.5))
    assert "1 JSON files hold no lm-eval results, such as config.json" in load_lm_eval(tmp_path).attrs["excluded"]
    (tmp_path / "z.json").write_text("{")
    with pytest.raises(ValueError, match=r"z\.json is not valid JSON"):
        load_lm_eval(tmp_path)


@pytest.mark.skipif(not (SHARED / "pythia-lm-eval").exists(), reason="Pythia's result files are not here")
def test_pythia():
    frame = load_pythia(SHARED / "pythia-lm-eval")
    assert frame["source"].nunique() == 135
    assert frame.attrs["excluded"] == ()
    sizes = {f"pythia-{size}-deduped" for size in ("70m", "160m", "410m", "1b", "1.4b")}
    counts = frame.groupby("model").agg(tokens=("tokens", "nunique"), metrics=("metric", "nunique"))
    assert counts.T.to_dict() == {size: {"tokens": 27, "metrics": 172} for size in sizes}
    assert frame["value"].notna().all()
    assert frame["tokens"].max() == 143_000 * 2_097_152
    assert set(frame.loc[frame["annealed"], "tokens"]) == {143_000 * 2_097_152}
    row = frame.loc[(frame["metric"] == "lambada_openai/acc") & (frame["model"] == "pythia-70m-deduped")].iloc[-1]
    assert (row["params"], row["params_non_embedding"]) == (70_426_624, 18_915_328)


def test_pythia_sizes_are_those_of_the_architecture():
    """12 L d^2 weights, 13 L d biases and norms, 2 d of the last norm; embeddings untied."""
    from analysis.reference.published import PYTHIA_SIZES

    shapes = {"70m": (6, 512), "160m": (12, 768), "410m": (24, 1024), "1b": (16, 2048), "1.4b": (24, 2048)}
    shapes |= {"2.8b": (32, 2560), "6.9b": (32, 4096), "12b": (36, 5120)}
    vocabulary = dict.fromkeys(shapes, 50_304) | {"6.9b": 50_432, "12b": 50_688}
    for size, (layers, width) in shapes.items():
        inner = 12 * layers * width**2 + 13 * layers * width + 2 * width
        assert PYTHIA_SIZES[size] == (inner + 2 * vocabulary[size] * width, inner)


def test_tinyllama_is_a_frame_like_ours():
    frame = tinyllama_milestones()
    assert tuple(frame.columns) == (*FRAME_COLUMNS, "source")
    assert (set(frame["study"]), frame["tokens"].nunique(), frame["metric"].nunique()) == (
        {"reference/tinyllama"},
        7,
        11,
    )
    assert frame["value"].isna().sum() == 4
    assert set(frame.loc[frame["value"].isna(), "tokens"]) == {3_000_000_000_000}
    assert frame["stderr"].isna().all()
    layer = 2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 5632 + 2 * 2048
    assert set(frame["params_non_embedding"]) == {22 * layer + 2048}
    assert set(frame["params"]) == {22 * layer + 2048 + 2 * 32_000 * 2048}


@pytest.mark.skipif(not (SHARED / "tinyllama_evals.csv").exists(), reason="TinyLlama's published table is not here")
def test_tinyllama_is_the_published_table():
    published = pd.read_csv(SHARED / "tinyllama_evals.csv")
    mine = published.loc[(published["model"] == "TinyLlama-1.1B") & (published["task"] != "avg")]
    names = {"HellaSwag": "hellaswag/acc_norm", "Obqa": "openbookqa/acc_norm", "WinoGrande": "winogrande/acc"}
    names |= {"ARC_c": "arc_challenge/acc_norm", "ARC_e": "arc_easy/acc_norm", "boolq": "boolq/acc"}
    names |= {"piqa": "piqa/acc_norm", "MMLU": "mmlu/acc", "BBH": "bbh/exact_match", "HumanEval": "humaneval/pass_1"}
    names |= {"DROP": "drop/exact_match"}
    expected = {(names[row.task], int(row.tokens)): round(row.score / 100, 6) for row in mine.itertuples()}
    frame = tinyllama_milestones().dropna(subset="value")
    assert {(r.metric, r.tokens): round(r.value, 6) for r in frame.itertuples()} == expected
