"""The command `workbench`: one verb for each thing a researcher does with a study."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench import __version__
from workbench.cli import imports, plan, study, tools

_OVERRIDES = "Hydra overrides, as experiments=token_scaling model=m0_1,m0_3 seed=range(3); or a study launched before"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a user's mistake is one line on stderr and exit status 2."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    unknown = [argument for argument in rest if argument.startswith("-")]
    if unknown:
        parser.error(f"unknown option {unknown[0]}")
    # argparse stops collecting overrides at the first option: `experiments=x -m model=a,b`.
    parsed.overrides = [*parsed.overrides, *rest]
    try:
        status = parsed.command(parsed)
    except _user_errors() as error:
        print(f"workbench: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors that say what to do; every other one is ours and keeps its traceback."""
    from workbench.evaluate.suite import EvaluationError
    from workbench.launch.slurm import SlurmError
    from workbench.tracking.connection import PublishError
    from workbench.train.checkpoint import DamagedCheckpointError, DiskFullError

    return (ValueError, OSError, SlurmError, PublishError, EvaluationError, DamagedCheckpointError, DiskFullError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("workbench", description="An experiment-tracking workbench for scaling studies")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("--experiments", type=Path, metavar="DIR", help="a folder of your own studies")
        sub.add_argument("-m", "--multirun", action="store_true", help="accepted as in Hydra; always on")
        sub.add_argument("overrides", nargs="*", help=_OVERRIDES)
        return sub

    add("run", study.run, "run what is missing of a study: train, evaluate, publish, draw")
    planning = add("plan", plan.print_plan, "print a study's points, stages and cost; start nothing")
    planning.add_argument("--json", action="store_true", help="print it for scripts")
    planning.add_argument("--no-measure", action="store_true", help="estimate no time")
    status = add("status", study.status, "print the state of each stage of a study")
    status.add_argument("--json", action="store_true", help="print it for scripts")
    status.add_argument("--watch", action="store_true", help="follow it until no job of the study is left")
    add("cancel", study.cancel, "end a study's jobs on the cluster; the same launch goes on later")
    add("evaluate", study.evaluate, "evaluate every checkpoint of a study that lacks a valid result")
    add("publish", study.publish, "send to MLflow what it lacks of a study")
    add("report", study.report, "draw a study's figures, write its page and print its table again")
    reference = add(
        "import", imports.import_results, f"put lm-eval result files of others into MLflow: {imports.USAGE}"
    )
    reference.epilog, reference.formatter_class = imports.HELP, argparse.RawDescriptionHelpFormatter
    add("prepare", tools.prepare, "prepare a study's data, as in: workbench prepare data=python")
    add("ui", tools.ui, "open MLflow on the loopback address")
    bench = add("bench", tools.bench, "measure the training speed of each model of a study")
    bench.add_argument("--seconds", type=float, default=5.0, help="a model")
    export = add(
        "export", tools.export, "copy the Hugging Face part of a checkpoint: workbench export CHECKPOINT TARGET"
    )
    export.set_defaults(overrides=[])
    generate = add("generate", tools.generate, "continue a text: workbench generate CHECKPOINT 'def main('")
    generate.add_argument("--max-tokens", type=int, default=64)
    generate.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    generate.add_argument("--seed", type=int, default=0)
    return parser
