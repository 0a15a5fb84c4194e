"""Sources of token files that were made elsewhere: held out, left out of the stream, refused where they have changed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, StreamConfig, StreamSource, TokenizerConfig
from workbench.data.corpus.referenced_tokens import refuse_mask
from workbench.data.fingerprint import data_fingerprint
from workbench.data.store import open_prepared, prepare, verify
from workbench.data.store_summary import describe, notes, source_table
from workbench.data.stream import Stream
from workbench.data.tokenizer import load_file
from workbench.study.layout import Layout

FORMATS = ("megatron", "npy", "header", "flat")


def stream_of(store, context: int) -> Stream:
    mixture = [{"end": None, "weights": {"text": 1.0}}]
    from workbench.config.schema import MixtureSegment

    assert mixture
    return Stream(
        store,
        StreamConfig(store.fingerprint, context, 0, {"text": StreamSource(None, None)}, [MixtureSegment(0, {"text": 1})]),
    )


def test_made():
    pass
