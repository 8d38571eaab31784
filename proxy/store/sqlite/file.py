"""The SQLite file: opening it, the lock of its one server, its identity, and the readiness check."""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from proxy.core import errors
from proxy.core.files import make_private_folder, narrow, open_private
from proxy.store.sqlite.connection import SqliteConnection
from proxy.store.sqlite.jobs import rehearse_admission
from proxy.store.sqlite.schema import APPLICATION_ID, PRAGMAS, migrate


@dataclass(frozen=True, slots=True)
class OpenFile:
    """The open file: a connection that writes and one that reads."""

    writer: SqliteConnection
    reader: SqliteConnection
    identity: tuple[int, int] | None
    """Device and inode at the time of opening."""
    resources: ExitStack
    """Closes both connections, then releases the server's lock."""


def open_file(path: Path, connect: Callable[[], SqliteConnection], *, exclusive: bool) -> OpenFile:
    """Open the file, or create it, with the newest schema. `exclusive` locks it for one server.

    Raises errors.Unavailable for a newer schema or a running server, and OSError or sqlite3.Error for a bad file.
    """
    make_private_folder(path.parent)
    with _exclusive_folder(path.parent), ExitStack() as stack:
        if exclusive:
            lock = open_private(Path(f"{path}.lock"), os.O_RDWR)
            _lock_server(path, stack.enter_context(os.fdopen(lock, "wb")))
        for suffix in ("", "-wal", "-shm", ".lock"):
            narrow(Path(f"{path}{suffix}"))
        writer = stack.enter_context(closing(connect()))
        writer.executescript(PRAGMAS)
        migrate(writer, path)
        if exclusive:  # the lock was free, so the server that held these claims is dead
            writer.execute("UPDATE work SET node = NULL, lapses_at = 0")
            writer.sole_writer = True
        reader = stack.enter_context(closing(connect()))
        reader.executescript(PRAGMAS + "PRAGMA query_only = ON;")
        return OpenFile(writer, reader, _identity(path), stack.pop_all())


def connect(path: Path, busy_timeout: float) -> SqliteConnection:
    """Return a new connection, which waits `busy_timeout` seconds for another process's write."""
    path.touch(mode=0o600)  # before SQLite creates it: it holds secrets, and its WAL gets the same mode
    return sqlite3.connect(
        path, timeout=busy_timeout, isolation_level=None, check_same_thread=False, factory=SqliteConnection
    )


def check_writable(db: SqliteConnection, path: Path, opened: tuple[int, int] | None, now: float) -> None:
    """Write to the file and rehearse an order. Raises errors.Unavailable if `path` is not the `opened` file."""
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")  # the smallest write: it rewrites the file's header
    if opened is None or _identity(path) != opened:
        raise errors.Unavailable(f"The store {path} was deleted or replaced. New records are lost: restart the server.")
    rehearse_admission(db, now)


def get_or_set(db: SqliteConnection, name: str, value: bytes) -> bytes:
    """Return the value kept under `name`; keep `value` if there is none."""
    db.execute("INSERT OR IGNORE INTO secret (name, value) VALUES (?, ?)", (name, value))
    return bytes(db.execute("SELECT value FROM secret WHERE name = ?", (name,)).fetchone()["value"])


def find_value(db: SqliteConnection, name: str) -> bytes | None:
    """Return the value kept under `name`; None if there is none."""
    row = db.execute("SELECT value FROM secret WHERE name = ?", (name,)).fetchone()
    return bytes(row["value"]) if row is not None else None


@contextmanager
def _exclusive_folder(folder: Path) -> Iterator[None]:
    """Lock the folder while a store in it is opened. SQLite's busy timeout does not cover the change to WAL."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _lock_server(path: Path, file: BinaryIO) -> None:
    """Take the lock that one server per store holds. The operating system releases it when the process ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise errors.Unavailable(f"Another server runs on the store {path}: stop it, or use another store.") from error


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode, which distinguish the file from a later one at the same path."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
