"""Workers that sleep so long that their claims are taken over: they give their tasks up, and the store is the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.data.corpus import task_claims
from workbench.data.corpus.corpus_plan import Corpus, open_corpus
from workbench.data.corpus.interruptions import Interruptions
from workbench.data.corpus.phases import PHASES, Phase
from workbench.data.corpus.pipeline import begin_corpus
from workbench.data.corpus.task_claims import Owner
from workbench.data.corpus.task_loop import _try_task, do_tasks
from workbench.data.fingerprint import data_fingerprint
from workbench.data.store import prepare, verify
from workbench.study.layout import Layout

TASK = "tokens/000003"


@pytest.fixture(name="on_another_host")
def fixture_on_another_host(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Call a function as another host would, by whose clock no claim was touched for too long."""

    def on_another_host(act: Callable[[], object]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(task_claims, "_place", lambda: "elsewhere")
            patched.setattr(task_claims, "STALE_SECONDS", -1.0)
            act()

    return on_another_host


@pytest.fixture(name="layout")
def fixture_layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "slept")


@pytest.fixture(name="corpus")
def fixture_corpus(corpus_data, small_tokenizer, layout: Layout) -> Corpus:
    begun = begin_corpus(layout.data(data_fingerprint(corpus_data, small_tokenizer)), corpus_data, small_tokenizer)
    assert begun is not None
    return begun


def with_sleep(before: Callable[[], None], after: Callable[[], None], writes_on: bool) -> list[Phase]:
    """Give the phases, with something that happens once, before one task writes or when it has; it may write on."""
    phases = {phase.name: phase for phase in PHASES}
    writing = phases["tokens"]
    slept: list[str] = []

    def write(corpus: Corpus, name: str, scratch: Path) -> dict:
        sleeps = f"tokens/{name}" == TASK and not slept
        slept.extend([name] * sleeps)
        if sleeps:
            before()
        facts = writing.do(corpus, name, scratch)
        if sleeps:
            after()
            if writes_on:
                (scratch / "more").write_text("")
        return facts

    return list({**phases, "tokens": dataclasses.replace(writing, do=write)}.values())


@pytest.mark.parametrize("other", ["finishes", "is killed"])
@pytest.mark.parametrize("moment", ["before it writes", "while it writes", "when it has written"])
def test_a_sleeper_gives_its_task_up(
    corpus_data, small_tokenizer, tmp_path, layout, corpus, on_another_host, hash_store, moment: str, other: str
):
    def finish() -> None:
        its_own = open_corpus(corpus.folder.root)
        tokens = next(phase for phase in PHASES if phase.name == "tokens")
        assert _try_task(its_own, its_own.folder.claims, tokens, TASK, Interruptions())

    def take_over_and_be_killed() -> None:
        claims = corpus.folder.claims
        dead = claims.take_away(TASK)
        assert dead is not None
        corpus.folder.discard(dead)
        owner = claims.take(TASK)
        assert owner is not None
        gone = dataclasses.replace(owner, place=here, started="1")
        (claims.folder / TASK.replace("/", "@")).write_text(json.dumps(vars(gone)))

    def lose() -> None:
        on_another_host(finish if other == "finishes" else take_over_and_be_killed)

    here = task_claims._place()
    nothing = lambda: None  # noqa: E731
    early = moment == "before it writes"
    phases = with_sleep(lose if early else nothing, nothing if early else lose, moment == "while it writes")
    do_tasks(corpus, phases, Interruptions())
    assert corpus.folder.read_record(TASK).files.keys() == {f"tokens/a/000003.{end}" for end in ("bin", "offsets.npy")}
    assert not list((corpus.folder.root / "claims").iterdir())
    slept = prepare(corpus_data, small_tokenizer, layout, workers=1)
    verify(slept)
    whole = prepare(corpus_data, small_tokenizer, Layout(tmp_path / "whole"), workers=1)
    assert hash_store(slept.directory) == hash_store(whole.directory)


def test_a_task_whose_files_are_gone_is_not_done(corpus):
    """Its claim is still its own: somebody deleted them."""
    owner = corpus.folder.claims.take("read/000000")
    with pytest.raises(FileNotFoundError, match="scratch"):
        corpus.folder.finish("read/000000", owner, {}, 1.0)
    assert not corpus.folder.is_done("read/000000")


def test_an_error_of_a_task_that_is_still_ones_own_is_raised(corpus):
    def fail(corpus: Corpus, name: str, scratch: Path) -> dict:
        raise FileNotFoundError("an input")

    failing = dataclasses.replace(PHASES[0], do=fail)
    with pytest.raises(FileNotFoundError, match="an input"):
        do_tasks(corpus, [failing], Interruptions())


def test_of_one_host_a_process_that_lives_and_is_not_stopped_keeps_its_claim_longer(corpus, monkeypatch):
    monkeypatch.setattr(task_claims, "STALE_SECONDS", -1.0)
    claims = corpus.folder.claims
    owner = claims.take("read/000000")
    assert owner is not None
    assert claims.take_away("read/000000") is None
    monkeypatch.setattr(task_claims, "BUSY_SECONDS", -1.0)
    assert claims.take_away("read/000000") == owner


def test_a_claim_that_was_taken_over_is_not_touched_by_who_lost_it(corpus, on_another_host, monkeypatch):
    claims = corpus.folder.claims
    owner = claims.take("read/000000")
    on_another_host(lambda: (claims.take_away("read/000000"), claims.take("read/000000")))
    touched: list[Path] = []
    monkeypatch.setattr(task_claims.os, "utime", touched.append)
    claims.touch("read/000000", owner)
    assert not touched


def test_of_two_that_see_a_dead_owner_the_second_takes_nothing_from_the_first(corpus, monkeypatch):
    """The first takes the task between the second's look at the dead owner and its move."""
    claims = corpus.folder.claims
    dead = claims.take("read/000000")
    first: list[Owner] = []

    def is_gone(owner: Owner) -> bool:
        if owner == dead and not first:
            (claims.folder / "read@000000").unlink()
            first.append(claims.take("read/000000"))
        return owner == dead

    monkeypatch.setattr(Owner, "is_gone", is_gone)
    assert claims.take_away("read/000000") is None
    assert claims.owner("read/000000") == first[0]
