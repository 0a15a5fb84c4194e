"""An audit of packed documents passes what was packed, and names each thing that was changed since."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from workbench.data.packed_index import make_packing, packing_folder
from workbench.data.store import open_prepared
from workbench.data.store_audit import WRONG, Sample, audit

WHOLE = Sample(whole=True)
CONTEXT = 32


@pytest.fixture
def packed(audited_stores, tmp_path):
    """A copy of a store with packed documents beside it: the store, and the index of a source."""

    def make(number, source="a"):
        store = tmp_path / "elsewhere" / audited_stores[number].name
        shutil.copytree(audited_stores[number], store)
        prepared = open_prepared(store)
        make_packing(prepared, CONTEXT)
        return store, packing_folder(prepared, CONTEXT, source)

    return make


def change_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change_array(folder, name, change):
    """Change an array of an index as somebody would who hides it."""
    values = np.fromfile(folder / f"a.{name}.bin", "<i4" if name == "sizes" else "<i8")
    change(values)
    values.tofile(folder / f"a.{name}.bin")
    data = (folder / f"a.{name}.bin").read_bytes()
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    change_manifest(folder, lambda m: m["files"].update({f"a.{name}.bin": facts}))


def about_packing(store, sample=WHOLE):
    """What is wrong with packed documents alone."""
    found = {check.name: check for check in audit(store, sample)}
    assert not [name for name, check in found.items() if check.state == WRONG and not name.startswith("packed 32-a")]
    return " ".join(text for check in found.values() if check.state == WRONG for text in check.wrong)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("sample", [WHOLE, Sample(token_bytes=1, documents=5)], ids=["whole", "sample"])
def test_packed_documents_pass_and_it_is_said_what_was_looked_at(packed, number, sample):
    store, folder = packed(number)
    found = {check.name: check for check in audit(store, sample)}
    assert not [name for name, check in found.items() if check.state == WRONG]
    assert {"packed 32-a: a", "packed 32-a: files", "packed 32-b: b", "packed 32-b: files"} < set(found)
    facts = json.loads((folder / "manifest.json").read_text())["sources"]["a"]
    files = len(list((store / "tokens/a").glob("*.bin"))) if number == 3 else 1
    looked = 1 if sample is not WHOLE else files
    assert found["packed 32-a: a"].found == (
        f"{facts['pieces']:,} pieces in {facts['sequences']:,} sequences of 32, {facts['tokens']:,} tokens, "
        f"{facts['padded']:,} padded; against the documents of {looked} of {files} token files"
    )
    assert files > 1 or number == 2


@pytest.mark.parametrize("number", [2, 3])
def test_pieces_that_are_not_those_of_the_documents_are_named(packed, number):
    store, folder = packed(number)
    sizes = np.fromfile(folder / "a.sizes.bin", "<i4")
    lengths, counts = np.unique(sizes, return_counts=True)
    one, other = np.flatnonzero(sizes == lengths[counts > 1][0])[:2]
    begins = (folder / "a.begins.bin").read_bytes()
    # One twice in the place of another that is as long: no number changes.
    change_array(folder, "begins", lambda values: values.__setitem__(other, values[one]))
    assert "pieces that are not the" in about_packing(store)
    (folder / "a.begins.bin").write_bytes(begins)
    change_array(folder, "begins", lambda values: values.__setitem__(one, values[one] + 1))
    assert "pieces that are not the" in about_packing(store)
    (folder / "a.begins.bin").write_bytes(begins)
    change_array(folder, "begins", lambda values: values.__setitem__(one, 10**12))
    assert "1 pieces reach beyond the source's" in about_packing(store)
    (folder / "a.begins.bin").write_bytes(begins)
    change_array(folder, "begins", lambda values: None)
    assert not about_packing(store)
    change_array(folder, "sizes", lambda values: values.__setitem__(one, -values[one]))  # its document seems to go on
    assert "pieces that are not the" in about_packing(store)


def test_sequences_that_are_too_long_or_no_sequences_are_named(packed):
    store, folder = packed(3)
    starts = np.fromfile(folder / "a.starts.bin", "<i8")
    place = int(np.flatnonzero(np.diff(starts) > 1)[0])
    change_array(folder, "starts", lambda values: values.__setitem__(place + 1, values[place] + 1))
    assert f"1 sequences are longer than 32 tokens, the first is {place + 1:,}" in about_packing(store)
    change_array(folder, "starts", lambda values: values.__setitem__(place + 1, values[place]))
    assert f"sequence {place:,} has 0 pieces" in about_packing(store)
    change_array(folder, "starts", lambda values: values.__setitem__(-1, values[-1] - 1))
    assert "the pieces from 0 to" in about_packing(store)


@pytest.mark.parametrize("what", ["pieces", "sequences", "tokens", "padded", "documents", "cut", "cut_in_windows"])
def test_counts_of_packed_documents_that_are_not_theirs_are_named(packed, what):
    store, folder = packed(3)
    change_manifest(folder, lambda m: m["sources"]["a"].update({what: m["sources"]["a"][what] + 1}))
    assert about_packing(store).startswith(f"{what}: ")


def test_changed_and_missing_files_of_packed_documents_are_named(packed):
    store, folder = packed(2)
    data = bytearray((folder / "a.begins.bin").read_bytes())
    data[3] ^= 1
    (folder / "a.begins.bin").write_bytes(data)
    assert "a.begins.bin is not what its checksum says" in about_packing(store)
    (folder / "a.begins.bin").unlink()
    (folder / "more.bin").write_bytes(b"")
    assert about_packing(store).startswith("more.bin is not in the manifest a.begins.bin is missing 0 beginnings")
    change_manifest(folder, lambda m: m.pop("sources"))
    assert "KeyError: 'sources'" in about_packing(store)
    (folder / "manifest.json").write_text("{")
    assert "is damaged" in about_packing(store)


def test_packed_documents_of_another_context_or_store_are_named(packed):
    store, folder = packed(2)
    change_manifest(folder, lambda m: m.update(context_tokens=64, fingerprint="0123456789abcdef-32-a"))
    found = about_packing(store)
    assert "the manifest is of 0123456789abcdef-32-a, the folder is" in found
    assert "the manifest says sequences of 64 tokens" in found
