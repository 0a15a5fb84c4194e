"""A study's corpora made on this machine, one after another, each by all its cores, before the stages that read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workbench.forecast.study_facts import Facts, make_store, unmade_corpora
from workbench.launch.outcome import Failure
from workbench.launch.snapshot import freeze_code, write_study
from workbench.study.causes import cause_of


def make_corpora(facts: Facts, say: Callable[[str], None], command: str, launcher: Mapping[str, Any]) -> list[Failure]:
    """Make what a study's stages read and is not there; give a failure for each corpus that could not be made.

    The study's record is written first, so that its name will do for `workbench status` meanwhile.

    Parameters
    ----------
    facts, say
        The study, and who is told what is being done.
    command, launcher
        As for `workbench.launch.snapshot.write_study`.

    Raises
    ------
    workbench.data.corpus.pipeline.Stopped
        The user stopped it.
    """
    corpora, failures = unmade_corpora(facts), list[Failure]()
    if corpora:
        code = freeze_code(facts.layout)
        write_study(facts, code.commit, code.dirty, command, launcher)
    for node in corpora.values():
        try:
            make_store(facts, node.id, say)
        except (ValueError, OSError, RuntimeError) as error:
            name = type(error).__name__
            failure = Failure("prepare", node.id, node.spec.label, f"{name}: {error}", cause_of(name))
            failures.append(failure)
            say(f"failed: {failure}")
    return failures
