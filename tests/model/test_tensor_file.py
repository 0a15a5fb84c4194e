"""Files written and hashed in one pass are the library's own, byte for byte."""

import hashlib
import io

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from workbench.model import tensor_file
from workbench.model.tensor_file import HashedFile, write_tensors

TENSORS = {
    "model.layers.10.weight": torch.randn(7, 5),
    "model.layers.2.weight": torch.randn(3, 4),
    "half": torch.randn(9).bfloat16(),
    "whole numbers": torch.arange(6),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "step": torch.tensor(3.0),
    "nothing": torch.zeros(0, 4),
    "gewichte-ä": torch.randn(2),
    "flags": torch.tensor([True, False]),
}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_bytes_are_the_librarys(tmp_path, metadata):
    save_file(TENSORS, tmp_path / "theirs", metadata=metadata)
    facts = write_tensors(tmp_path / "ours", TENSORS, metadata)
    content = (tmp_path / "ours").read_bytes()
    assert content == (tmp_path / "theirs").read_bytes()
    assert facts == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_the_library_reads_what_was_written(tmp_path):
    write_tensors(tmp_path / "file", TENSORS, {"format": "pt"})
    loaded = load_file(tmp_path / "file")
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in TENSORS.items())
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_rows_of_a_view_are_written_in_their_order(tmp_path):
    turned = torch.arange(12.0).reshape(3, 4).T
    write_tensors(tmp_path / "file", {"turned": turned, "slice": torch.arange(10.0)[2:5]})
    loaded = load_file(tmp_path / "file")
    assert torch.equal(loaded["turned"], turned)
    assert loaded["slice"].tolist() == [2, 3, 4]


def test_what_a_file_takes_in_pieces_is_hashed_once(tmp_path, monkeypatch):
    """A write may take a part of what it is given; chunks need not divide a tensor."""

    class Reluctant(io.BytesIO):
        def write(self, data):
            return super().write(bytes(data[:1000]))

    monkeypatch.setattr(tensor_file, "_CHUNK_BYTES", 4096)
    sink = Reluctant()
    monkeypatch.setattr("pathlib.Path.open", lambda *_, **__: sink)
    data = bytes(range(256)) * 40
    file = HashedFile(tmp_path / "file")
    file.write(data)
    assert sink.getvalue() == data
    assert file.facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
