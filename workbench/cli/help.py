"""What `workbench --help` and each command's help say: an example, and what to type next."""

SETTINGS = (
    "experiments=STUDY and any setting as Hydra takes it, such as model=m0_1,m0_3 'seed=range(3)'; "
    "or the name of a study that was launched before"
)
ARGUMENTS = {
    "import": ("FOLDER|SETTING", "a folder of lm-eval result files, and the settings below"),
    "ui": ("SETTING", "paths.outputs=DIR where the outputs are elsewhere"),
    "export": ("CHECKPOINT TARGET", "a checkpoint's directory, and the folder to write"),
    "audit": ("FOLDER", "the folder of a prepared store, wherever it is; its name is its fingerprint"),
    "generate": ("CHECKPOINT TEXT", "a checkpoint's directory, and the texts to continue"),
}
"""Arguments that are not settings: how help shows them, and what they are."""
START = """start here:
  workbench run experiments=token_scaling_tiny       a complete study in about a minute
  workbench status token_scaling_tiny                its stages
  workbench ui                                       its runs in MLflow

Studies are the YAML files in experiments/; `workbench COMMAND --help` has an example of each command.
README.md explains how to write your own study, docs/launching.md how to use a cluster.
"""
EXAMPLES = {
    "run": """example:
  workbench run experiments=token_scaling_tiny tokens=40960,81920

Run it again to continue after an interruption. Results: outputs/figures/STUDY/report.html.
Next: `workbench status STUDY`, `workbench ui`. On a cluster: hydra/launcher=slurm cluster=NAME (docs/launching.md).
""",
    "plan": """example:
  workbench plan experiments=token_scaling model=m0_1,m0_3

Next: `workbench run` with the same settings.
""",
    "status": """example:
  workbench status token_scaling_tiny

Next: `workbench run` with the study's settings continues what is killed, failed or missing (docs/launching.md).
""",
    "cancel": """example:
  workbench cancel token_scaling

Next: the same `workbench run` continues from the last checkpoints.
""",
    "evaluate": """example:
  workbench evaluate experiments=token_scaling evaluation=commonsense
  workbench evaluate --checkpoint DIR evaluation=embedded data=python

Next: `workbench report STUDY`.
""",
    "publish": """example:
  workbench publish token_scaling

Next: `workbench ui`. Needed only where a run could not publish by itself (docs/tracking.md).
""",
    "report": """example:
  workbench report token_scaling_tiny

Next: open outputs/figures/STUDY/report.html (docs/reports.md).
""",
    "prepare": """example:
  workbench prepare data=jsonl data.sources.text.path=documents.jsonl

Next: `workbench run` with the same settings; it prepares data by itself where that was not done before.
""",
    "benchmark-texts": """example:
  workbench benchmark-texts evaluation=commonsense

Next: data.corpus.contamination.texts=outputs/benchmark_texts (docs/corpora.md). Exit status 1: a task could not be reached.
""",
    "audit": """example:
  workbench audit outputs/data/FINGERPRINT
  workbench audit --whole /mnt/copy/FINGERPRINT

Next: where something is wrong, copy or prepare the store again (docs/corpora.md). Exit status 1: something is wrong.
""",
    "ui": """example:
  workbench ui

Next: open the address it prints. Ctrl-C ends it.
""",
    "bench": """example:
  workbench bench experiments=token_scaling model=m0_1

Next: `workbench plan` with the same settings estimates the time of the whole study.
""",
    "export": """example:
  workbench export outputs/stages/ID/checkpoints/STEP /path/for/transformers

Next: AutoModelForCausalLM.from_pretrained("/path/for/transformers").
""",
    "generate": """example:
  workbench generate outputs/stages/ID/checkpoints/STEP 'def main(' 'import '
  workbench generate outputs/stages/ID/checkpoints/STEP --chat 'What is a list?' --temperature 0.8

`workbench status STUDY` lists the stages' ids.
""",
}
"""By command; that of `import` is in `workbench.cli.imports`."""
