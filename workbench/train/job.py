"""What a kind's `run` is given: one stage, what is asked of it, and who asks."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.config.schema import Stage, TrainingStage
from workbench.data.carried_tokens import Carried, read_carried, write_carried
from workbench.data.mixture import drawn_sources
from workbench.data.packed_index import BEST_FIT, make_packing
from workbench.data.store import Prepared, open_prepared
from workbench.study.files import exclusive
from workbench.study.flops import count_parameters
from workbench.study.kind_plan import checkpoint_bytes
from workbench.study.layout import Layout, StageDir
from workbench.train import checkpoint as ckpt
from workbench.train.distributed import World
from workbench.train.hooks import Hooks
from workbench.train.targets import keep_targets
from workbench.train.weights_only import FLAG, MANIFEST

if TYPE_CHECKING:
    from workbench.model.tensor_file import FileFacts
    from workbench.model.transformer import Transformer


@dataclass(frozen=True)
class StageJob:
    """One process's attempt at a stage; the stage's lock is held."""

    layout: Layout
    """The outputs."""
    dir: StageDir
    """The stage's directory."""
    stage: Stage
    """What to do, with the circumstances that it is done under."""
    goals: Sequence[int]
    """Tokens at which this launch wants checkpoints."""
    hooks: Hooks
    """Stop flag, progress and log."""
    world: World
    """This process among several."""
    code: dict[str, Any]
    """`commit`, `dirty` and `copy` of the code that runs."""

    def open_data(self) -> Prepared:
        """Open the stage's prepared data; documents that it packs into sequences are packed here, unless they are.

        Raises
        ------
        ValueError
            Its tokenizer has more ids than the model, or nothing tells documents apart that are to be packed.
        """
        prepared = open_prepared(self.layout.data(self.stage.data_fingerprint))
        if prepared.vocab_size > self.stage.model.vocab_size:
            raise ValueError(
                f"model.vocab_size={self.stage.model.vocab_size}, but the tokenizer of {prepared.fingerprint} has "
                f"{prepared.vocab_size} ids"
            )
        stream = self.stage.stream if isinstance(self.stage, TrainingStage) else None
        if stream is not None and stream.packing == BEST_FIT:
            make_packing(prepared, stream.context_tokens, drawn_sources(stream.mixture), self.hooks.log)
        return prepared

    def checkpoint_of(self, stage: str, tokens: int, *, resumable: bool = False) -> Path:
        """Find a checkpoint of another stage.

        Raises
        ------
        ValueError
            It is not there, or not with the optimizer's state where that is asked for.
        """
        path = ckpt.find_checkpoint(self.layout.stage(stage), tokens, resumable=resumable)
        if path is None:
            to = " to resume from" if resumable else ""
            raise ValueError(
                f"stage {self.dir.id} begins at {tokens} tokens of stage {stage}, which has no checkpoint there{to}"
            )
        return path

    def read_input(self, stage: str, tokens: int) -> tuple[Path, dict[str, Any]]:
        """Find and verify a checkpoint of another stage; its directory and its manifest.

        Raises
        ------
        ValueError
            It is not there.
        DamagedCheckpointError
            A file of it is not what its manifest says.
        """
        path = self.checkpoint_of(stage, tokens)
        return path, ckpt.verify(path, weights_only=True)

    def manifest(self, prepared: Prepared, **facts: Any) -> dict[str, Any]:
        """Make a checkpoint's manifest: what all kinds have, and this one's `facts`."""
        params = count_parameters(self.stage.model)
        return {
            "format": 1,
            "stage": self.dir.id,
            **({} if self.stage.kind == "pretrain" else {"kind": self.stage.kind}),
            "params": params.total,
            "params_non_embedding": params.non_embedding,
            "data_fingerprint": prepared.fingerprint,
            "heldout_fingerprint": prepared.manifest["heldout_fingerprint"],
            **facts,
            **self.code,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
        }

    def find_carried(self, prepared: Prepared) -> Carried:
        """Find what goes with the tokenizer: of the checkpoint that the stage begins from, or of the prepared data."""
        parent = self.stage.parent
        found = None if parent is None else ckpt.find_checkpoint(self.layout.stage(parent.stage), parent.tokens)
        if parent is not None and found is None:  # cleared since this stage began
            found = next(reversed(ckpt.checkpoints_by_tokens(self.dir).values()), None)
        return read_carried(found or prepared.tokenizer_dir)

    def write_weights(
        self,
        model: Transformer,
        *,
        step: int,
        flops: float,
        made_from: Path | None = None,
        carried: Carried | None = None,
        **facts: Any,
    ) -> Path:
        """Write the one checkpoint of a stage that does not train, at its end; rank 0 alone calls this.

        Parameters
        ----------
        model
            Its weights, on the CPU.
        step
            Optimizer steps of the chain behind them.
        flops
            FLOPs of training behind them.
        made_from
            Checkpoint that they were made from: what ends its texts ends those of this one.
        carried
            What goes with its tokenizer; None takes what `find_carried` gives.
        facts
            Anything else its manifest should say; `counts` and `annealed` are empty and false where nothing does.

        Raises
        ------
        DiskFullError
            With the bytes needed and the bytes free.
        """
        from workbench.model.generation_file import read_stop_ids
        from workbench.model.weights import WEIGHTS, write_hf

        done = self.dir.checkpoint(step)
        if (done / MANIFEST).exists() and ckpt.read_manifest(done)["tokens"] == self.stage.end_tokens:
            ckpt.mark_kept(done)
            return done
        prepared = self.open_data()
        ids = prepared.bos_id, prepared.eos_id, [] if made_from is None else read_stop_ids(made_from)
        carried = self.find_carried(prepared) if carried is None else carried

        def write(folder: Path) -> dict[str, FileFacts]:
            weights = write_hf(folder, model, prepared.tokenizer_dir, *ids)
            write_carried(carried, folder)
            return {WEIGHTS: weights}

        known = {"sequences": 0, "annealed": False, "counts": {}, "numerics": {}, FLAG: True, **facts}
        manifest = self.manifest(prepared, step=step, tokens=self.stage.end_tokens, flops=flops, **known)
        path = ckpt.write_checkpoint(
            self.dir,
            step,
            write,
            manifest,
            keep=True,
            needed_bytes=checkpoint_bytes(self.stage, whole=False),
            say=self.hooks.log,
        )
        with exclusive(self.dir.path / "freeze.lock"):
            keep_targets(self.dir, self.stage)
        self.hooks.on_checkpoint(path)
        return path


def code_version(stage_dir: StageDir) -> dict[str, Any]:
    """Read which code a stage was frozen with."""
    version = json.loads((stage_dir.code / "version.json").read_text(encoding="utf-8"))
    return {key: version[key] for key in ("commit", "dirty", "copy") if key in version}
