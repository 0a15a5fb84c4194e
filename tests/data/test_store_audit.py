"""An audit passes what was written, and names each thing that was changed since."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from workbench.cli import main
from workbench.data.audit_texts import HashSet
from workbench.data.store_audit import OK, UNCHECKED, WRONG, Sample, audit, describe
from workbench.data.tokenizer import load_saved

WHOLE = Sample(whole=True)


@pytest.fixture
def copy(audited_stores, tmp_path):
    """Copies a store to elsewhere, to be changed."""

    def make(number):
        target = tmp_path / "elsewhere" / audited_stores[number].name
        shutil.copytree(audited_stores[number], target)
        load_saved.cache_clear()
        return target

    return make


def wrong(store, sample=WHOLE):
    """Checks that are wrong, with what they name."""
    return {check.name: " ".join(check.wrong) for check in audit(store, sample) if check.state == WRONG}


def change_manifest(store, change):
    manifest = json.loads((store / "manifest.json").read_text())
    change(manifest)
    (store / "manifest.json").write_text(json.dumps(manifest))


def agree(store, name):
    """Make the manifest's checksum that of the changed file, as somebody who hides a change would."""
    data = (store / name).read_bytes()
    change_manifest(
        store,
        lambda m: m["files"].update({name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}),
    )


def rewrite(store, name, change, dtype="<u2"):
    ids = np.fromfile(store / name, dtype)
    change(ids)
    ids.tofile(store / name)
    agree(store, name)


def first_file(store, number):
    return (
        "tokens_a.bin" if number == 2 else f"tokens/a/{sorted(p.name for p in (store / 'tokens/a').glob('*.bin'))[0]}"
    )


@pytest.mark.parametrize("number", [2, 3])
def test_a_whole_store_passes_wherever_it_is(copy, number):
    found = list(audit(copy(number), WHOLE))
    states = {check.name: check.state for check in found}
    assert {name for name, state in states.items() if state != OK} == ({"offsets"} if number == 2 else set())
    assert len(states) == 12
    assert "(the inputs" in found[0].found


@pytest.mark.parametrize("number", [2, 3])
def test_a_sample_says_how_much_it_looked_at_and_is_the_same_for_the_same_seed(copy, number):
    store, sample = copy(number), Sample(token_bytes=1, documents=5)
    found = {check.name: check for check in audit(store, sample)}
    assert not wrong(store, sample)
    assert found["text and ids"].found.startswith("10 of ")
    assert found["bytes"].state == UNCHECKED
    assert list(audit(store, sample)) == list(found.values())


def test_a_renamed_folder_is_named(copy):
    store = copy(3)
    moved = store.rename(store.with_name("0123456789abcdef"))
    assert wrong(moved) == {"fingerprint": f"the manifest is of {store.name}, the folder is 0123456789abcdef"}


def test_a_changed_byte_of_any_file_is_named(copy):
    store = copy(3)
    path = store / "plan.json"
    path.write_text(path.read_text().replace("jsonl", "jsonm", 1))
    assert wrong(store) == {"checksums": "plan.json is not what its checksum says"}


def test_a_missing_and_an_added_file_are_named(copy):
    store = copy(3)
    (store / "plan.json").unlink()
    (store / "more.bin").write_bytes(b"1")
    assert wrong(store) == {"sizes": "plan.json is missing more.bin is not in the manifest"}


def test_a_shorter_token_file_is_named(copy):
    store = copy(3)
    name = first_file(store, 3)
    (store / name).write_bytes((store / name).read_bytes()[:-3])
    found = wrong(store)
    assert "the manifest says" in found["sizes"]
    assert name in found["counts"]
    assert name in found["checksums"]


@pytest.mark.parametrize("number", [2, 3])
def test_an_id_outside_the_vocabulary_is_named(copy, number):
    store = copy(number)
    rewrite(store, first_file(store, number), lambda ids: ids.__setitem__(7, 301))
    assert "1 ids are not below 300, the first at token 7" in wrong(store)["ids"]


@pytest.mark.parametrize("number", [2, 3])
def test_a_document_without_its_first_token_is_named(copy, number):
    store = copy(number)
    bos = json.loads((store / "manifest.json").read_text())["tokenizer"]["bos_id"]
    rewrite(store, first_file(store, number), lambda ids: ids.__setitem__(np.flatnonzero(ids == bos)[2], 65))
    assert "documents by their first tokens" in wrong(store)["first tokens"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: o.__setitem__(2, o[1]), "offsets do not ascend at document 1"),
        (lambda o: o.__setitem__(-1, o[-1] + 1), "offsets go from 0 to"),
        (lambda o: o.__setitem__(1, o[1] + 1), ""),
    ],
)
def test_changed_offsets_are_named(copy, change, words):
    store = copy(3)
    name = first_file(store, 3).replace(".bin", ".offsets.npy")
    offsets = np.load(store / name)
    change(offsets)
    np.save(store / name, offsets)
    agree(store, name)
    found = wrong(store)
    assert words in found.get("offsets", "")
    assert words or "document 1 begins at token" in found["first tokens"]


@pytest.mark.parametrize("number", [2, 3])
def test_ids_that_no_text_has_are_named(copy, number):
    """One word's id in the place of the ids of its parts: the text is the same, the ids are not those of a tokenizer."""
    store = copy(number)
    tokenizer = load_saved(store / "tokenizer")
    whole = next(i for i in range(299, 0, -1) if len(tokenizer.decode([i], skip_special_tokens=False)) > 1)
    parts = [tokenizer.encode(c).ids[0] for c in tokenizer.decode([whole], skip_special_tokens=False)]

    def split(ids):
        begin = next(i for i in range(1, 400) if tokenizer.decode(ids[i : i + 1].tolist()).isascii())
        ids[begin : begin + len(parts)] = parts

    rewrite(store, first_file(store, number), split)
    assert "document 0 has other ids than its text" in wrong(store)["text and ids"]


@pytest.mark.parametrize(
    ("number", "check", "change", "words"),
    [
        (2, "counts", lambda m: m["sources"]["a"].update(read=9999), "a: 9,999 documents read"),
        (3, "counts", lambda m: m["sources"]["a"]["dropped"].update(duplicate=7), "12 dropped by cause"),
        (3, "counts", lambda m: m["sources"]["b"].update(tokens=1), "the source 1"),
        (3, "bytes", lambda m: m["sources"]["a"]["shards"][0].update(bytes=12), "the manifest says 12"),
        (2, "bytes", lambda m: m["sources"]["b"].update(bytes=12), "the manifest says 12"),
        (2, "first tokens", lambda m: m["sources"]["b"].update(documents=3), "the manifest says 3"),
        (3, "held-out documents", lambda m: m["sources"]["b"].update(heldout_documents=0), "the manifest says 0 of"),
        (3, "manifest", lambda m: m.pop("tokenizer"), "KeyError: 'tokenizer'"),
    ],
)
def test_changed_counts_are_named(copy, number, check, change, words):
    store = copy(number)
    change_manifest(store, change)
    assert words in wrong(store)[check]


@pytest.mark.parametrize("number", [2, 3])
def test_held_out_text_in_training_text_is_named(copy, number):
    """A training document is put among the held-out ones."""
    store = copy(number)
    tokenizer, ids = load_saved(store / "tokenizer"), np.fromfile(store / first_file(store, number), "<u2")
    bos = json.loads((store / "manifest.json").read_text())["tokenizer"]["bos_id"]
    text = tokenizer.decode(ids[1 : np.flatnonzero(ids == bos)[1]].tolist())
    path = store / "heldout" / "a.jsonl"
    path.write_text(path.read_text() + json.dumps({"id": "x", "text": text}) + "\n")
    agree(store, "heldout/a.jsonl")
    found = wrong(store)
    passages = " a: a held-out document has 100% of its passages in training text" if number == 3 else ""
    assert found["held-out text"] == "a: a held-out document has 100% of its bytes in training text" + passages
    assert "held-out documents of" in found["held-out documents"]


def test_held_out_text_of_few_words_is_looked_for_whole(copy):
    """Of 8 to 12 words, as a corpus holds out and protects."""
    store = copy(3)
    tokenizer, ids = load_saved(store / "tokenizer"), np.fromfile(store / first_file(store, 3), "<u2")
    bos = json.loads((store / "manifest.json").read_text())["tokenizer"]["bos_id"]
    text = tokenizer.decode(ids[1 : np.flatnonzero(ids == bos)[1]].tolist())
    words = [word for word in text.split() if word.isalnum()]
    place = next(i for i in range(len(words)) if " ".join(words[i : i + 9]) in " ".join(text.split()))
    path = store / "heldout" / "a.jsonl"
    path.write_text(path.read_text() + json.dumps({"id": "x", "text": " ".join(words[place : place + 9])}) + "\n")
    agree(store, "heldout/a.jsonl")
    assert "a: a held-out document has 100% of its passages in training text" in wrong(store)["held-out text"]


@pytest.mark.parametrize("number", [2, 3])
def test_a_document_that_is_there_twice_is_named(copy, number):
    store = copy(number)
    name = first_file(store, number)
    ids = np.fromfile(store / name, "<u2")
    bos = json.loads((store / "manifest.json").read_text())["tokenizer"]["bos_id"]
    begin = np.flatnonzero(ids == bos)
    np.concatenate([ids, ids[: begin[1]]]).tofile(store / name)
    agree(store, name)
    assert wrong(store)["equal documents"] == "1 documents are equal to another, 0 at most could be"


def test_equal_texts_are_counted_in_bounded_memory():
    hashes = HashSet(most=500)
    for i in range(0, 4000, 100):
        hashes.add([f"text {n // 2}" for n in range(i, i + 100)])
    counted, equal = hashes.count()
    assert hashes.halvings >= 3
    assert counted <= 500
    assert equal * 2 == counted > 50


def test_what_is_no_store_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"has no manifest.json: give the folder of prepared data"):
        list(audit(tmp_path))
    (tmp_path / "manifest.json").write_text('{"format": 1, "kind": "chat"}')
    with pytest.raises(ValueError, match="is of 'chat', but token stores"):
        list(audit(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["audit"])
    assert ended.value.code == 2
    assert "audit takes the folder" in capsys.readouterr().err


def test_the_verb_ends_with_1_where_something_is_wrong(copy, capsys):
    store = copy(3)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["audit", *arguments, str(store)])
        return ended.value.code, capsys.readouterr().out

    code, text = run()
    assert code == 0
    assert text.endswith(f"{store}: nothing wrong; a sample (seed 0; --whole takes everything) was looked at\n")
    change_manifest(store, lambda m: m["sources"]["a"].update(read=9999))
    code, text = run("--whole", "--json")
    assert code == 1
    assert json.loads(text)["wrong"] == ["counts"]


def test_many_things_wrong_are_cut_short():
    from workbench.data.audit_check import judge

    lines = describe(judge("sizes", "9 files", [f"{i} is missing" for i in range(9)]))
    assert len(lines) == 7
    assert lines[-1].endswith("and 4 more")


def test_token_files_that_are_not_in_the_store_are_not_checked(copy):
    """As of a source of files that were made elsewhere, of which the store holds what is left out."""
    store = copy(3)

    def refer(manifest):
        facts = manifest["sources"]["a"]
        shutil.rmtree(store / "tokens" / "a")
        manifest["files"] = {n: f for n, f in manifest["files"].items() if not n.startswith("tokens/a/")}
        facts |= {"excluded": [], "bytes": None, "shards": [{"file": "/other/a.bin", "documents": None}]}

    change_manifest(store, refer)
    found = {check.name: check for check in audit(store, WHOLE)}
    assert found["token files elsewhere"].found == "1 files of a are referred to and not in the store"
    assert found["token files elsewhere"].state == UNCHECKED
    assert not wrong(store)


def test_passages_that_a_corpus_says_it_cut_are_named(copy):
    """The words are there in lines of another length, which runs of lines do not see."""
    store = copy(3)
    change_manifest(store, lambda m: m["config"]["data"]["corpus"].update(overlap_words=13))
    tokenizer, ids = load_saved(store / "tokenizer"), np.fromfile(store / first_file(store, 3), "<u2")
    bos = json.loads((store / "manifest.json").read_text())["tokenizer"]["bos_id"]
    text = tokenizer.decode(ids[1 : np.flatnonzero(ids == bos)[1]].tolist()).replace("\n", " ")
    path = store / "heldout" / "a.jsonl"
    path.write_text(path.read_text() + json.dumps({"id": "x", "text": text}) + "\n")
    agree(store, "heldout/a.jsonl")
    assert wrong(store)["held-out text"] == "a: a held-out document has 100% of its passages in training text"
