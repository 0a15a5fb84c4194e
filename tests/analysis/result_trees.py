"""Made-up lm-eval result files in both formats."""

import json

NEW = {
    "results": {
        "piqa": {
            "name": "piqa",
            "alias": "piqa",
            "sample_len": 1838,
            "acc,none": 0.6,
            "acc_stderr,none": 0.011,
            "acc_norm,none": 0.61,
            "acc_norm_stderr,none": "N/A",
        },
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.02,
            "exact_match_stderr,strict-match": 0.004,
            "exact_match,flexible-extract": 0.03,
            "exact_match_stderr,flexible-extract": 0.005,
        },
        "lambada_openai": {
            "alias": " - lambada_openai",
            "perplexity,none": 12.5,
            "perplexity_stderr,none": 0.4,
            "acc,none": 0.4,
            "acc_stderr,none": 0.007,
        },
        "wikitext": {
            "alias": "wikitext",
            "word_perplexity,none": 20.0,
            "word_perplexity_stderr,none": "N/A",
            "bits_per_byte,none": "N/A",
            "bits_per_byte_stderr,none": "N/A",
        },
        "mmlu": {"alias": "mmlu", "acc,none": 0.25, "acc_stderr,none": 0.0036},
        "empty_group": {" ": " ", "alias": "empty_group"},
    },
    "groups": {"mmlu": {"alias": "mmlu", "acc,none": 0.25, "acc_stderr,none": 0.0036}},
    "group_subtasks": {"mmlu": ["mmlu_anatomy"]},
    "versions": {"piqa": 1.0, "gsm8k": 3.0, "lambada_openai": 1.0, "wikitext": 2.0, "mmlu": 2},
    "n-shot": {"piqa": 0, "gsm8k": 5, "lambada_openai": 0, "wikitext": 0, "mmlu": 0},
    "higher_is_better": {"piqa": {"acc": True}},
    "config": {
        "model": "hf",
        "model_args": {"pretrained": "org/small", "revision": "step1000"},
        "limit": None,
        "model_dtype": "torch.float16",
    },
    "model_name": "org/small",
    "lm_eval_version": "0.4.13",
    "git_hash": "abc",
    "date": 1_700_000_000.5,
}
OLD = {
    "results": {
        "piqa": {"acc": 0.6, "acc_stderr": 0.011, "acc_norm": 0.61, "acc_norm_stderr": 0.012},
        "lambada_openai": {"ppl": 12.5, "ppl_stderr": 0.4, "acc": 0.4, "acc_stderr": 0.007},
    },
    "versions": {"piqa": 0, "lambada_openai": 0},
    "config": {
        "model": "hf-causal",
        "model_args": "use_accelerate=True,pretrained=org/small,revision=step1000",
        "num_fewshot": 0,
        "limit": None,
    },
}


def old(step, acc, stderr=0.01, size="small", task="piqa", **more):
    """A file of one task in the old format."""
    return {
        "results": {task: {"acc": acc, "acc_stderr": stderr}},
        "versions": {task: 0},
        "config": {"model_args": f"pretrained=org/{size},revision=step{step}", "num_fewshot": 0},
        **more,
    }


def write(folder, **files):
    """Write JSON files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in files.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder
