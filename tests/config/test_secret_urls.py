"""Passwords and signatures in URLs are refused in every setting, and hidden in messages."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.config.plain import from_dict
from workbench.config.schema import (
    ChatDataConfig,
    DataConfig,
    InitConfig,
    SourceConfig,
    TokenizerConfig,
    TrackingConfig,
)
from workbench.config.schema.contamination_config import Contamination
from workbench.config.secret_urls import hide_secrets, refuse_secrets

SECRETS = [
    ("https://me:hunter2@host/x.jsonl", "https://...@host/x.jsonl", "a password"),
    ("https://hunter2@host/x.jsonl", "https://...@host/x.jsonl", "a user or a token"),
    ("HTTPS://me:hunter2@host/x.jsonl", "HTTPS://...@host/x.jsonl", "a password"),
    ("s3://key:hunter2@bucket/x.jsonl", "s3://...@bucket/x.jsonl", "a password"),
    ("sftp://me:hunter2@host/x.jsonl", "sftp://...@host/x.jsonl", "a password"),
    ("postgresql+psycopg://me:hunter2@host/mlflow", "postgresql+psycopg://...@host/mlflow", "a password"),
    (
        "https://b.s3.amazonaws.com/x?X-Amz-Date=1&X-Amz-Signature=hunter2",
        "https://b.s3.amazonaws.com/x?...",
        "X-Amz-Sig",
    ),
    ("https://b.s3.amazonaws.com/x?AWSAccessKeyId=hunter2", "https://b.s3.amazonaws.com/x?...", "AWSAccessKeyId"),
    ("https://b.s3.amazonaws.com/x?X-Amz-Security-Token=hunter2", "https://b.s3.amazonaws.com/x?...", "Security-Token"),
    ("https://b.s3.amazonaws.com/x?x%2Damz%2Dsignature=hunter2", "https://b.s3.amazonaws.com/x?...", "x%2Damz"),
    (
        "https://storage.googleapis.com/b/x?X-Goog-Credential=hunter2",
        "https://storage.googleapis.com/b/x?...",
        "X-Goog",
    ),
    (
        "https://a.blob.core.windows.net/c/x?sv=2022&sp=r&sig=hunter2",
        "https://a.blob.core.windows.net/c/x?...",
        "(sig)",
    ),
    (
        "https://d.cloudfront.net/x?Expires=1&Signature=hunter2&Key-Pair-Id=K",
        "https://d.cloudfront.net/x?...",
        "(Expires)",
    ),
    ("https://host/x?access_token=hunter2", "https://host/x?...", "(access_token)"),
    ("https://host/x?accessToken=hunter2", "https://host/x?...", "(accessToken)"),
    ("https://host/x?apikey=hunter2", "https://host/x?...", "(apikey)"),
    ("https://host/x?a=1;password=hunter2", "https://host/x?...", "(password)"),
    ("https://host/x#token=hunter2", "https://host/x#...", "(token)"),
    ("https://host/a file?token=hunter2", "https://host/a file?...", "(token)"),
    ("abfs://container@account/x?sig=hunter2", "abfs://container@account/x?...", "(sig)"),
    ("simplecache::https://me:hunter2@host/x.jsonl", "simplecache::https://...@host/x.jsonl", "a password"),
    ("zip://a.jsonl::https://me:hunter2@host/x.zip", "zip://a.jsonl::https://...@host/x.zip", "a password"),
]
HARMLESS = [
    "/data/me:hunter2@host/x.jsonl",
    "/data/part-?token=1.jsonl",
    "https://host/x.jsonl",
    "https://host:8080/x.jsonl",
    "https://host/@scope/a:b@c.jsonl",
    "https://host/x?versionId=3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY-MTRCxf3vjVBH40Nr8X8gdRQBpUMLUo",
    "https://zenodo.org/records/1/files/x.jsonl?download=1",
    "https://host/x?generation=1360887697105000&alt=media",
    "https://host/x?tokenizer=gpt2&tokens=2&keyword=a",
    "https://host/x?token=",
    "s3://bucket/part-?.jsonl",
    "s3://bucket/part-?token/x.jsonl",
    "s3://bucket/x.jsonl?versionId=abc",
    "abfs://container@account.dfs.core.windows.net/x.jsonl",
    "hdfs://me@host:9000/x.jsonl",
    "postgresql+psycopg:///mlflow?host=/scratch/mlflow",
    "sqlite:////outputs/a@b:c/mlflow.db",
]


@pytest.mark.parametrize(("url", "shown", "what"), SECRETS)
def test_what_lets_its_bearer_in_is_refused_and_not_repeated(url: str, shown: str, what: str):
    with pytest.raises(ValueError, match="settings are recorded") as caught:
        refuse_secrets("source path", url)
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).startswith(f"source path={shown} holds ")
    assert what in str(caught.value)


@pytest.mark.parametrize("url", HARMLESS)
def test_other_urls_globs_and_paths_are_taken(url: str):
    refuse_secrets("source path", url)
    assert hide_secrets(f"403 for url '{url}' now") == f"403 for url '{url}' now"


def test_messages_hide_every_secret_and_nothing_else():
    said = "403 for url 'https://a/x?Signature=hunter2&y=1' (after https://me:hunter2@b/?q=1): see https://c/d?e=f"
    assert hide_secrets(said) == "403 for url 'https://a/x?...' (after https://...@b/?q=1): see https://c/d?e=f"


@pytest.mark.parametrize("field", ["path", "heldout_path", "revision", "files"])
@pytest.mark.parametrize("kind", ["jsonl", "tokens", "huggingface"])
def test_no_field_of_a_source_takes_one(kind: str, field: str):
    url = "https://host/x?sig=hunter2"
    settings: dict[str, Any] = {"kind": kind, "path": "some/set", field: [url] if field == "files" else url}
    name = r"files\[0\]" if field == "files" else field
    with pytest.raises(ValueError, match=rf"^source\.{name}=https://host/x\?\.\.\. holds a signed query \(sig\)"):
        from_dict(SourceConfig, settings, "source", as_written=True)


def test_what_an_older_release_recorded_is_read():
    recorded = {"kind": "jsonl", "path": "https://host/x.jsonl?sig=hunter2", "split": "validation"}
    assert from_dict(SourceConfig, recorded).path == recorded["path"]
    assert from_dict(TrackingConfig, {"uri": "postgresql://me:hunter2@host/mlflow"}).uri is not None


@pytest.mark.parametrize(
    ("kind", "values", "name"),
    [
        (TokenizerConfig, {"kind": "file", "path": "https://me:hunter2@host/tokenizer.json"}, "x.path"),
        (Contamination, {"texts": "https://me:hunter2@host/texts"}, "x.texts"),
        (ChatDataConfig, {"name": "a", "files": ["https://me:hunter2@host/a.jsonl"]}, "x.files[0]"),
        (InitConfig, {"kind": "imported", "path": "https://me:hunter2@hf.co/a/b", "tokens": 0}, "x.path"),
        (InitConfig, {"kind": "imported", "path": "a/b", "adapter": "s3://a:hunter2@b", "tokens": 0}, "x.adapter"),
        (TrackingConfig, {"uri": "postgresql://me:hunter2@host/mlflow"}, "x.uri"),
        (
            DataConfig,
            {"name": "d", "sources": {"s": {"kind": "text", "path": "ftp://a:hunter2@b/c"}}},
            "x.sources.s.path",
        ),
    ],
)
def test_no_setting_takes_one(kind: type, values: dict[str, Any], name: str):
    with pytest.raises(ValueError, match="holds a password, and settings are recorded") as caught:
        from_dict(kind, values, "x", as_written=True)
    assert str(caught.value).startswith(f"{name}=")
    assert "hunter2" not in str(caught.value)
