"""A connection to MLflow that fails in bounded time and in one line, and a database made once.

MLflow is imported inside functions: it takes over a second, and training must not need it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.study.files import exclusive
from workbench.study.layout import Layout

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Beginnings of addresses of databases that a client opens itself, without a server that would keep artifacts."""
LOCK_SECONDS = 300.0
"""How long to wait while another process publishes the same study, or any study to the same SQLite file."""

# MLflow reads these when it is imported.
for _name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "true")


class PublishError(Exception):
    """MLflow did not accept the results; they remain in the stages' directories."""


def default_uri(layout: Layout) -> str:
    """URI of the SQLite file in the outputs' root."""
    database = layout.database.resolve()
    from sqlalchemy.engine import URL

    # Pasted, a `?` in the path would begin the URL's query, and `%20` be read as a space.
    url = URL.create("sqlite", database=str(database))
    text = url.render_as_string(hide_password=False)
    if text == f"sqlite:///{database}":
        return text
    # With a quoted path behind `sqlite:///`, MLflow 3.17 makes a second folder that is called so; the driver's name
    # keeps it from that.
    return url.set(drivername="sqlite+pysqlite").render_as_string(hide_password=False)


def artifact_location(layout: Layout, name: str, uri: str) -> str | None:
    """URI of the folder of an experiment's artifacts; None leaves it to a server.

    MLflow's own default for a database is the working directory of whoever publishes first.
    """
    return (layout.artifacts.resolve() / name).as_uri() if uri.startswith(DATABASES) else None


def init_store(uri: str) -> None:
    """Create or upgrade a database once; a server manages its own.

    Several processes that start on an empty SQLite file at the same time break it, so this holds the file's lock.

    Raises
    ------
    PublishError
        The database cannot be opened or upgraded.
    """
    with _hold_database(uri):
        _make_store(uri)


def _make_store(uri: str) -> None:
    database = database_file(uri)
    if database is None:
        return
    # Otherwise Alembic logs fifty migrations.
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    import mlflow.store.db.utils as db
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = db.create_sqlalchemy_engine_with_retry(uri)
        if not db._all_tables_exist(engine):
            db._initialize_tables(engine)
        elif db._get_schema_version(engine) != db._get_latest_schema_revision():
            db._upgrade_db(engine)
        engine.dispose()
    except (MlflowException, SQLAlchemyError) as error:
        raise PublishError(f"{database} cannot be opened as an MLflow database: {_first_line(error)}") from error


@contextlib.contextmanager
def connect(uri: str, timeout_seconds: float, layout: Layout) -> Iterator[MlflowClient]:
    """Return a client whose calls all end in bounded time, and whose failures become one `PublishError`.

    SQLite on a file system that several machines share is safe with only one writer, so its file's lock is
    held until the client is released. A server coordinates its writers itself and needs no lock.
    """
    seconds = str(max(1, round(timeout_seconds)))
    bounds = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": seconds,
        "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": seconds,
        # Otherwise MLflow retries for four minutes; here, publishing again is the retry.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    if database_file(uri) is not None:
        # A connection that is kept goes on reading and writing a file that was replaced meanwhile.
        bounds["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] = "NullPool"
    before = {name: os.environ.get(name) for name in bounds}
    os.environ.update(bounds)
    with contextlib.ExitStack() as stack:
        stack.callback(_restore_environment, before)
        stack.enter_context(_hold_database(uri))
        _make_store(uri)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield MlflowClient(tracking_uri=uri)
        except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
            raise PublishError(
                f"MLflow at {uri} did not accept the results ({_first_line(error)}); "
                f"they are safe in {layout.root}, and `workbench publish` sends what is missing"
            ) from error


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold a kernel lock whose file names the holder; it ends with its process, on any machine.

    Raises
    ------
    PublishError
        Another process has held it for `LOCK_SECONDS`, or the file system does not support locks.
    """
    give_up_at = time.monotonic() + LOCK_SECONDS

    def wait_no_longer() -> None:
        if time.monotonic() >= give_up_at:
            holder = path.read_text(encoding="utf-8").strip() or "another process"
            raise PublishError(
                f"{holder} has held {path} for {LOCK_SECONDS:.0f} s; `workbench publish` sends what is missing later"
            )

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path, wait_no_longer))
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        except OSError as error:
            raise PublishError(f"{path} cannot be locked: {error}") from error
        yield


def database_file(uri: str) -> Path | None:
    """File of an SQLite store, by one canonical name; None for a server."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        name = make_url(uri).database
    except ArgumentError as error:
        raise PublishError(
            f"tracking URI {uri!r} is not the address of a database: write sqlite:////path/to/file"
        ) from error
    return Path(name).resolve() if name else None


@contextlib.contextmanager
def _hold_database(uri: str) -> Iterator[None]:
    database = database_file(uri)
    if database is None:
        yield
        return
    with hold_lock(database.with_name(database.name + ".lock")):
        yield


def _restore_environment(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
