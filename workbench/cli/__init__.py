"""The command `workbench`: one verb for each thing a researcher does with a study."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench import __version__
from workbench.cli import audit_verb, imports, plan_verb, study_verbs, tools
from workbench.cli.help import ARGUMENTS, EXAMPLES, SETTINGS, START
from workbench.cli.shared import add_plugins


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a user's mistake is one line on stderr and exit status 2."""
    parsed = parse(arguments)
    try:
        add_plugins(parsed.plugins or [])
        status = parsed.command(parsed)
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except _user_errors() as error:
        print(f"workbench: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt as stopped:
        if str(stopped):
            print(f"workbench: {stopped}", file=sys.stderr)
        status = 130
    sys.exit(status)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command; None takes this process's own."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    unknown = [argument for argument in rest if argument.startswith("-")]
    if unknown:
        parser.error(f"unknown option {unknown[0]}")
    # argparse stops collecting overrides at the first option: `experiments=x -m model=a,b`.
    parsed.overrides = [*parsed.overrides, *rest]
    return parsed


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors that say what to do; any other one is a bug and keeps its traceback."""
    from workbench.evaluate.suite import EvaluationError
    from workbench.launch.slurm.commands import SlurmError
    from workbench.tracking.connection import PublishError
    from workbench.train.checkpoint import DamagedCheckpointError, DiskFullError

    return (ValueError, OSError, SlurmError, PublishError, EvaluationError, DamagedCheckpointError, DiskFullError)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "workbench",
        description="Scaling studies of language models: plan, train, evaluate, track and draw them.",
        epilog=START,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=EXAMPLES.get(name, imports.HELP),
            formatter_class=raw,
        )
        sub.set_defaults(command=command)
        sub.add_argument("--experiments", type=Path, metavar="DIR", help="a folder of your own studies")
        sub.add_argument(
            "--plugins", type=Path, metavar="DIR", action="append", help="a folder with stage kinds of your own"
        )
        sub.add_argument("-m", "--multirun", action="store_true", help="accepted as in Hydra; always on")
        metavar, words = ARGUMENTS.get(name, ("SETTING", SETTINGS))
        sub.add_argument("overrides", nargs="*", metavar=metavar, help=words)
        return sub

    add("run", study_verbs.run, "run what is missing of a study: train, evaluate, publish, draw")
    planning = add("plan", plan_verb.print_plan, "print a study's points, stages and cost without starting anything")
    planning.add_argument("--json", action="store_true", help="print JSON, for scripts")
    planning.add_argument("--no-measure", action="store_true", help="do not measure this machine, and estimate no time")
    status = add("status", study_verbs.status, "print the state of each stage of a study")
    status.add_argument("--json", action="store_true", help="print JSON, for scripts")
    status.add_argument("--watch", action="store_true", help="keep printing until no job of the study is left")
    add("cancel", study_verbs.cancel, "end a study's jobs on the cluster")
    scoring = add("evaluate", study_verbs.evaluate, "evaluate every checkpoint of a study that lacks a valid result")
    scoring.add_argument(
        "--checkpoint", metavar="DIR", help="score this Hugging Face directory, or name on the hub, instead"
    )
    scoring.add_argument("--revision", help="its branch, tag or commit on the hub")
    add("publish", study_verbs.publish, "send MLflow what it lacks of a study")
    add("report", study_verbs.report, "draw a study's figures and report page again, and print its table")
    add("import", imports.import_results, "put lm-eval result files of others into MLflow")
    add("prepare", tools.prepare, "prepare a study's data: read, split and tokenize it")
    add(
        "benchmark-texts",
        tools.benchmark_texts,
        "write the texts of a config's evaluation tasks, to search data for them",
    )
    auditing = add("audit", audit_verb.audit, "check a prepared store by its files alone")
    auditing.add_argument("--json", action="store_true", help="print JSON, for scripts")
    auditing.add_argument("--whole", action="store_true", help="look at everything, not at a sample")
    auditing.add_argument(
        "--documents", type=int, default=2000, help="documents of every source to decode (default: 2000)"
    )
    auditing.add_argument("--seed", type=int, default=0, help="seed of the sample (default: 0)")
    add("ui", tools.ui, "open MLflow on this machine")
    bench = add("bench", tools.bench, "measure the training speed of each model of a study")
    bench.add_argument("--seconds", type=float, default=5.0, help="measure each model for this long (default: 5)")
    export = add("export", tools.export, "copy the Hugging Face part of a checkpoint to a folder")
    export.set_defaults(overrides=[])
    generate = add("generate", tools.generate, "continue texts with a checkpoint, or answer them")
    generate.add_argument(
        "--chat", action="store_true", help="each text is a message, in the checkpoint's chat template"
    )
    generate.add_argument(
        "--max-tokens",
        type=int,
        help="how many tokens to add, at most (default: 64, or as many as the context has room for)",
    )
    generate.add_argument("--temperature", type=float, default=0.0, help="0 (default) takes the most likely token")
    generate.add_argument("--top-k", type=int, help="draw from the k most likely tokens only (default: from all)")
    generate.add_argument(
        "--top-p", type=float, help="draw from the most likely tokens of this probability together only"
    )
    generate.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    return parser
