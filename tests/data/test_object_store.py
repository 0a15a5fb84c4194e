"""Files at URLs: listed with size and version, read in place by byte ranges, every refusal in one line."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, TokenizerConfig, from_dict
from workbench.data import object_store
from workbench.data.corpus import shard_reading
from workbench.data.corpus.shard_reading import read_shard
from workbench.data.corpus.shards import plan_shards
from workbench.data.fingerprint import data_fingerprint
from workbench.data.object_store import forget_lists, list_objects, open_object
from workbench.data.out_of_reach import OutOfReachError
from workbench.data.remote_files import RemoteFile


@pytest.fixture
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's file system in memory, empty before and after."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    forget_lists()
    yield system
    system.store.clear()
    forget_lists()


def names(url: str, kind: str = "jsonl") -> list[str]:
    return [file.name for file in list_objects(url, kind)]


def read_all(source: SourceConfig, shard_bytes: int) -> list[str]:
    data = DataConfig("x", {"s": source}, corpus=CorpusConfig(shard_bytes))
    return [read.text for shard in plan_shards(data) for batch in read_shard(shard, source) for read in batch]


def test_a_url_is_a_file_a_folder_or_a_glob(bucket):
    for name in ("a/0.jsonl", "a/b/1.jsonl.gz", "a/b/2.txt", "a/.hidden.jsonl", "c/3.jsonl"):
        bucket.pipe(f"/bucket/{name}", b"{}")
    assert names("memory:///bucket/a/0.jsonl") == ["memory:///bucket/a/0.jsonl"]
    assert names("memory:///bucket/a") == ["memory:///bucket/a/0.jsonl", "memory:///bucket/a/b/1.jsonl.gz"]
    assert names("memory:///bucket/*/*.jsonl") == [
        "memory:///bucket/a/.hidden.jsonl",
        "memory:///bucket/a/0.jsonl",
        "memory:///bucket/c/3.jsonl",
    ]
    assert names("memory:///bucket/a/**/[12].*") == ["memory:///bucket/a/b/1.jsonl.gz", "memory:///bucket/a/b/2.txt"]
    [file] = list_objects("memory:///bucket/a/0.jsonl", "jsonl")
    assert file.size == 2
    assert file.content.startswith("time:1")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory:///bucket/train/*.parquet", r"nothing there matches; there is memory:///bucket/train/\*\.jsonl"),
        ("memory:///bucket/trian/*.jsonl", r"nothing there matches; there is memory:///bucket/train/\*\.jsonl"),
        ("memory:///bucket/train/1.jsonl", r"nothing there matches; there is memory:///bucket/train/\*\.jsonl"),
        (
            "s3://bucket/x.jsonl",
            r"path='s3://bucket/x\.jsonl': Install s3fs to access S3: `pip install` it into this env",
        ),
        ("gs://bucket/x.jsonl", r"Please install gcsfs to access Google Storage: `pip install` it"),
        ("nowhere://bucket/x.jsonl", r"fsspec knows no nowhere:// \("),
        (
            "http://127.0.0.1:9/x.jsonl",
            r"path='http://127\.0\.0\.1:9/x\.jsonl' cannot be listed: .*check the address|nothing is there",
        ),
    ],
)
def test_what_is_not_there_or_cannot_be_asked_is_said(bucket, url, said):
    bucket.pipe("/bucket/train/0.jsonl", b"{}")
    with pytest.raises(ValueError, match=said) as caught:
        list_objects(url, "jsonl")
    assert str(caught.value).isprintable()


def test_a_folder_without_such_files_is_said(bucket):
    bucket.pipe("/bucket/train/0.jsonl", b"{}")
    with pytest.raises(ValueError, match=r"no \.parquet file is in that folder"):
        list_objects("memory:///bucket/train", "parquet")


def test_what_has_no_version_is_refused(bucket, monkeypatch):
    bucket.pipe("/bucket/0.jsonl", b"{}")
    monkeypatch.setattr(object_store, "_VERSIONS", {"etag": ("ETag",)})
    with pytest.raises(
        ValueError, match=r"memory:///bucket/0\.jsonl: the service says no ETag, checksum or time of it"
    ):
        list_objects("memory:///bucket/*", "jsonl")


@pytest.mark.parametrize(
    ("facts", "version"),
    [
        ({"ETag": '"abc"', "LastModified": "2026"}, ["etag:abc", "time:2026"]),
        ({"etag": "abc", "md5Hash": "x"}, ["etag:abc", "md5:x"]),
        ({"md5Hash": "x", "updated": "2026-01-01"}, ["md5:x", "time:2026-01-01"]),
        ({"mtime": 12.5}, ["time:12.500000"]),
        ({"created": datetime(1970, 1, 1, 0, 0, 12, 500_000, tzinfo=UTC)}, ["time:12.500000"]),
        ({"size": 3}, []),
    ],
)
def test_the_surest_version_comes_first(facts, version):
    assert object_store._versions(facts) == version


def test_a_changed_file_is_another_fingerprint_and_is_not_read(bucket):
    bucket.pipe("/bucket/0.jsonl", b'{"text": "a"}\n')
    source = SourceConfig("jsonl", path="memory:///bucket/*.jsonl")
    data = DataConfig("x", {"s": source}, corpus=CorpusConfig())
    first = data_fingerprint(data, TokenizerConfig())
    shards = plan_shards(data)
    bucket.pipe("/bucket/0.jsonl", b'{"text": "b"}\n')
    assert data_fingerprint(data, TokenizerConfig()) == first  # a process asks once,
    forget_lists()  # and again at the end
    assert data_fingerprint(data, TokenizerConfig()) != first
    with pytest.raises(
        ValueError, match=r"memory:///bucket/0\.jsonl has 14 bytes \(time:.* when it was planned: leave"
    ):
        list(read_shard(shards[0], source))
    bucket.rm("/bucket/0.jsonl")
    with pytest.raises(ValueError, match=r"memory:///bucket/0\.jsonl cannot be read: "):
        list(read_shard(shards[0], source))


def test_every_format_is_read_as_from_this_machine_whatever_the_cuts(bucket, tmp_path: Path):
    rows = [{"text": f"text {i} " + "é" * (i % 50), "n": i} for i in range(100)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=17)
    with pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, 40)
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for path in tmp_path.iterdir():
        bucket.pipe(f"/bucket/{path.name}", path.read_bytes())
    for name, kind in [
        ("a.jsonl", "jsonl"),
        ("a.jsonl.gz", "jsonl"),
        ("a.json", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.arrow", "arrow"),
    ]:
        for shard_bytes in (50, 700, 10**9) if name in ("a.jsonl", "a.parquet") else (700,):
            local = read_all(SourceConfig(kind, path=str(tmp_path / name)), shard_bytes)
            assert local == [row["text"] for row in rows]
            assert read_all(SourceConfig(kind, path=f"memory:///bucket/{name}"), shard_bytes) == local, (
                name,
                shard_bytes,
            )
    kept = read_all(SourceConfig("parquet", path="memory:///bucket/a.parquet", where="n < 3"), 700)
    assert len(kept) == len(rows)  # those to drop are read, too


def test_a_packed_file_behind_a_query_is_read_by_its_name(bucket):
    lines = [f"Text {i} of a file in the bucket." for i in range(60)]
    packed = gzip.compress("".join(json.dumps({"text": line}) + "\n" for line in lines).encode())
    bucket.pipe("/bucket/a.jsonl.gz?versionId=3", packed)
    assert read_all(SourceConfig("jsonl", path="memory:///bucket/a.jsonl.gz?versionId=3"), 50) == lines


def test_an_error_names_url_and_line(bucket, monkeypatch):
    monkeypatch.setattr(shard_reading, "_BLOCK_BYTES", 64)
    bucket.pipe("/bucket/a.jsonl", b'{"text": "some text"}\n' * 30 + b'{"other": 1}\n')
    with pytest.raises(ValueError, match=r"^memory:///bucket/a\.jsonl, line 31: no field 'text' \(there: other\)"):
        read_all(SourceConfig("jsonl", path="memory:///bucket/a.jsonl"), 100)
    bucket.pipe("/bucket/b.parquet", b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"^memory:///bucket/b\.parquet is truncated"):
        read_all(SourceConfig("parquet", path="memory:///bucket/b.parquet"), 100)
    bucket.pipe("/bucket/c.jsonl.gz", b"")
    with pytest.raises(ValueError, match=r"^memory:///bucket/c\.jsonl\.gz is empty"):
        read_all(SourceConfig("jsonl", path="memory:///bucket/c.jsonl.gz"), 100)


def test_a_service_that_does_not_answer_is_no_fault_of_the_input(bucket, monkeypatch):
    rows = pyarrow.table({"text": [f"text {i}" for i in range(5000)]})
    with bucket.open("/bucket/a.parquet", "wb") as file:
        pyarrow.parquet.write_table(rows, file)
    for name, content in (("a.jsonl", b'{"text": "a"}\n' * 9), ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n'))):
        bucket.pipe(f"/bucket/{name}", content)
    plans = {}
    for name, kind in (("a.jsonl", "jsonl"), ("a.jsonl.gz", "jsonl"), ("a.parquet", "parquet")):
        source = SourceConfig(kind, path=f"memory:///bucket/{name}")
        plans[name] = source, plan_shards(DataConfig("x", {"s": source}, corpus=CorpusConfig()))
    opened = type(bucket).open

    def broken(self, path, *args, **settings):
        file = opened(self, path, *args, **settings)
        monkeypatch.setattr(file, "read", lambda *_: (_ for _ in ()).throw(ConnectionResetError(104, "reset")))
        return file

    monkeypatch.setattr(type(bucket), "open", broken)
    for name, (source, shards) in plans.items():
        with pytest.raises(
            OutOfReachError, match=rf"^memory:///bucket/{name} cannot be read behind byte 0: the service"
        ):
            list(read_shard(shards[0], source))
    monkeypatch.setattr(type(bucket), "open", opened)

    def silent(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(type(bucket), "info", silent)
    with pytest.raises(OutOfReachError, match=r"a\.jsonl cannot be read: the service does not answer \(TimeoutError\)"):
        list(read_shard(plans["a.jsonl"][1][0], plans["a.jsonl"][0]))
    forget_lists()
    with pytest.raises(
        OutOfReachError, match=r"path='memory:///bucket/a\.jsonl' cannot be listed: the service does not"
    ):
        names("memory:///bucket/a.jsonl")


def test_a_web_address_where_nobody_listens_is_out_of_reach(bucket):
    with pytest.raises(
        OutOfReachError, match=r"path='http://127\.0\.0\.1:9/x\.jsonl' cannot be listed: the service does"
    ):
        list_objects("http://127.0.0.1:9/x.jsonl", "jsonl")


@pytest.mark.parametrize(
    ("url", "is_glob"),
    [
        ("s3://bucket/x.jsonl?versionId=abc", False),
        ("https://host/x.jsonl?versionId=abc", False),
        ("s3://bucket/part-?.jsonl", True),
        ("s3://bucket/*.jsonl?versionId=abc", True),
        ("s3://bucket/a?versionId=b/x.jsonl", True),
    ],
)
def test_a_version_of_an_object_is_no_glob(url, is_glob):
    assert object_store._is_glob(url) == is_glob


class RangeHandler(SimpleHTTPRequestHandler):
    """Serves a folder by ranges, with an ETag."""

    asked: list[str]

    def log_message(self, *args):
        """Write nothing."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        wanted = self.headers.get("Range")
        if wanted and self.command == "GET":
            begin, end = (int(place) for place in wanted.removeprefix("bytes=").split("-"))
            end = min(end, len(content) - 1)
            self.asked.append(wanted)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(content)}")
            content = content[begin : end + 1]
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"version one"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815 (as http.server names it)


def test_a_web_address_is_read_by_ranges(tmp_path: Path, bucket):
    texts = [f"text {i} " + "x" * 5000 for i in range(3000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    asked: list[str] = []
    handler = type("Handler", (RangeHandler,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/a.jsonl"
        source = SourceConfig("jsonl", path=url)
        assert list_objects(url, "jsonl")[0].content == "etag:version one"
        data = DataConfig("x", {"s": source}, corpus=CorpusConfig(8_000_000))
        shards = plan_shards(data)
        assert len(shards) == 2
        second = [read.text for batch in read_shard(shards[1], source) for read in batch]
        assert second == texts[-len(second) :]
        assert 1000 < len(second) < 2000
        assert min(int(each.removeprefix("bytes=").split("-")[0]) for each in asked) > 7_000_000
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": "hf://datasets/a/b/c/*.jsonl"}, r"set kind=huggingface path=a/b and files to globs"),
        ({"path": "file:///data/x.jsonl"}, r"write files of this machine without file://"),
        ({"kind": "tokens", "path": "s3://bucket/x.bin"}, r"token files are read in place, on this machine"),
        ({"path": "https://me:secret@host/x.jsonl"}, r"path=https://\.\.\.@host/x\.jsonl holds a password"),
        (
            {"path": "https://host/x.jsonl?sig=secret"},
            r"path=https://host/x\.jsonl\?\.\.\. holds a signed query \(sig\)",
        ),
        (
            {"kind": "tokens", "path": "https://me:secret@host/x.bin"},
            r"path=https://\.\.\.@host/x\.bin holds a password",
        ),
    ],
)
def test_urls_that_are_read_in_another_way_are_refused(settings, said):
    with pytest.raises(ValueError, match=said) as caught:
        from_dict(SourceConfig, {"kind": "jsonl", **settings}, as_written=True)
    assert "secret" not in str(caught.value)


def test_urls_need_a_corpus():
    with pytest.raises(ValueError, match=r"data\.sources\.s\.path='s3://b/x\.jsonl' needs data\.corpus"):
        DataConfig("x", {"s": SourceConfig("jsonl", path="s3://b/x.jsonl")})


def test_a_path_of_a_url_has_what_readers_need(bucket):
    bucket.pipe("/bucket/a b/x.jsonl.gz", b"0123456789")
    [file] = list_objects("memory:///bucket/a b/x.jsonl.gz", "jsonl")
    path = open_object(file)
    assert (path.name, path.suffix, str(path), path.stat().st_size) == ("x.jsonl.gz", ".gz", file.name, 10)
    with path.open("rb") as stream:
        assert stream.peek(4)[:4] == b"0123"
    with path.open("rb", buffering=0) as stream:
        stream.seek(4)
        assert stream.read(2) == b"45"
    with pytest.raises(ValueError, match="when it was planned"):
        open_object(RemoteFile(file.name, file.size, "etag:other"))
