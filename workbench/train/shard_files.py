"""Files of a sharded model: its weights as one Hugging Face file, its optimizer as a file a process.

Both are safetensors, so neither holds a pickle, and each can be read by any number of processes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from workbench.config.schema import ModelConfig
from workbench.model.tensor_file import FileFacts, HashedFile, header
from workbench.model.weights import WEIGHTS, hf_keys, hf_rows, hf_shapes, our_rows
from workbench.train.distributed import World
from workbench.train.state_copy import Snapshot, local_part

FILE_BYTES = 1 << 30
"""Of whole tensors whose shares go into one file of each process: the writer holds twice what it writes at once."""


def write_weights(directory: Path, snapshot: Snapshot, world: World) -> FileFacts:
    """Write `model.safetensors` as `write_hf` does, gathering one tensor at a time; a collective.

    Parameters
    ----------
    directory
        Where.
    snapshot
        Of a shared-out model: every process's shares, or the whole weights on rank 0 alone.
    world
        The processes, for what they agree on; shares are gathered by the model's own mesh.

    Returns
    -------
    dict
        On rank 0, its checksum and size, as it was written; empty on the others.

    Raises
    ------
    OSError
        On rank 0; `RemoteError` on the others.
    """
    failure: list[OSError] = []
    file = _open_weights(directory, snapshot, failure) if world.is_main else None
    for name, weight in snapshot.weights.items():
        # Every process takes part, whatever became of the file.
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if file is not None and not failure:
            _append(file, hf_rows(name, whole, snapshot.config), failure)
    if file is not None:
        try:
            file.close()
        except OSError as error:  # where a network's file system says that it is full
            failure.append(error)
    world.together(lambda: _raise_any(failure))
    return {} if file is None else file.facts


def _open_weights(directory: Path, snapshot: Snapshot, failure: list[OSError]) -> HashedFile | None:
    try:
        file = HashedFile(directory / WEIGHTS)
        file.write(_header(snapshot))
    except OSError as error:
        failure.append(error)
        return None
    return file


def _header(snapshot: Snapshot) -> bytes:
    """Header with the tensors in the order in which they are gathered."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, weight in snapshot.weights.items():
        assert weight.dtype == torch.float32, name
        shapes |= hf_shapes(name, tuple(weight.shape), snapshot.config)
    return header(((key, torch.float32, shape) for key, shape in shapes.items()), {"format": "pt"})


def _append(file: HashedFile, whole: Tensor, failure: list[OSError]) -> None:
    # A fused matrix's parts are its rows in order, so its bytes are theirs.
    try:
        file.write_tensor(whole)
    except OSError as error:
        failure.append(error)


def _raise_any(failure: list[OSError]) -> None:
    if failure:
        raise failure[0]


class WeightsFile:
    """Weights written by `write_hf` or `write_weights`, read one at a time."""

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self._file = safe_open(directory / WEIGHTS, framework="pt")  # pyright: ignore
        self._config = config

    def read(self, name: str, shape: torch.Size) -> Tensor:
        """One of `Transformer`'s weights, whole, on the CPU."""
        parts = [self._file.get_tensor(key) for key in hf_keys(name, self._config)]
        whole = our_rows(name, torch.cat(parts) if len(parts) > 1 else parts[0], self._config)
        if whole.shape != shape:
            raise ValueError(f"{name} has the shape {tuple(whole.shape)} in the checkpoint, not {tuple(shape)}")
        return whole


class _HashingFileSystem(FileSystem):
    """PyTorch's file system for a writer, which hashes each file as it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: dict[str, FileFacts] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[Any]:
        assert mode == "wb", mode
        with HashedFile(Path(path)) as file:
            yield file
        self.facts[Path(path).name] = file.facts


def write_shards(directory: Path, tensors: Mapping[str, Tensor], world: World) -> dict[str, FileFacts]:
    """Write each process's shares of `tensors` into files of its own; a collective among the processes of `world`.

    Returns
    -------
    dict
        Checksum and size of each file that this process wrote, by name.

    Raises
    ------
    Exception
        What it was on the first process that failed; raised on every one.
    """
    writer = HuggingFaceStorageWriter(
        str(directory), fqn_to_index_mapping=_file_numbers(tensors), save_distributed=True
    )
    writer.fs = files = _HashingFileSystem()
    if all(local_part(tensor).device.type == "cpu" for tensor in tensors.values()):
        # Else it would wait for the GPU's stream, which training goes on in, after every 10 MB that it writes.
        writer.per_thread_copy_ahead = 0
    try:
        save(dict(tensors), storage_writer=writer, process_group=world.group)
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error
    return files.facts


def _file_numbers(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Tell which file each tensor goes to, from 1 on."""
    numbers, written = {}, 0
    for name, tensor in tensors.items():
        numbers[name] = 1 + written // FILE_BYTES
        written += tensor.numel() * tensor.element_size()
    return numbers


def read_shards(directory: Path, tensors: dict[str, Tensor]) -> None:
    """Fill `tensors`, or this process's shares of them, from whichever files hold them; no collectives.

    `directory` may hold what another number of processes wrote, or plain safetensors files.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)
        load(tensors, storage_reader=HuggingFaceStorageReader(str(directory)), no_dist=True)
