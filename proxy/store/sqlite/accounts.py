"""Accounts, their API keys and the ledger. Every movement of tokens is an entry written here."""

import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from proxy.core.job import Draft, Job, new_id
from proxy.store.sqlite.connection import SqliteConnection
from proxy.store.types import PAGE_BYTES, Account, Cause, Entry, Key, Page, cannot_pay, cannot_take, no_account

T = TypeVar("T")

AFTER_EVERY_ID: Final = "~"
"""Sorts after every id, so that a list without `before` starts at the newest record."""

_SELECT_KEYS: Final = """
    SELECT api_key.id, account, name, created_at, revoked_at FROM api_key JOIN account ON account.id = api_key.account
"""


def create_key(db: SqliteConnection, name: str, digest: bytes, tokens: int, now: float) -> Key:
    """Add a key to the account called `name`, which is created if missing, and grant `tokens`."""
    base = secrets.randbelow(1 << 32) << 16  # positions stay far below 2^53, the largest safe integer of JavaScript
    db.execute(
        "INSERT OR IGNORE INTO account (id, name, head, floor) VALUES (?, ?, ?, ?)", (new_id("acct"), name, base, base)
    )
    account = db.execute("SELECT id FROM account WHERE name = ?", (name,)).fetchone()["id"]
    key = Key(new_id("key"), account, name, now)
    db.execute(
        "INSERT INTO api_key (id, account, digest, created_at) VALUES (?, ?, ?, ?)", (key.id, account, digest, now)
    )
    grant(db, name, tokens, now)
    return key


def list_keys(db: SqliteConnection) -> list[Key]:
    """Return all keys, oldest first."""
    return [Key(**row) for row in db.execute(_SELECT_KEYS + "ORDER BY api_key.id")]


def active_keys(db: SqliteConnection, ids: Sequence[str]) -> set[str]:
    """Return the ids whose keys exist and are not revoked."""
    active = "SELECT 1 FROM api_key WHERE id = ? AND revoked_at IS NULL"
    return {key_id for key_id in ids if db.execute(active, (key_id,)).fetchone()}


def key_by_id(db: SqliteConnection, key_id: str) -> Key | None:
    """Return the key with this id; None if there is none."""
    row = db.execute(_SELECT_KEYS + "WHERE api_key.id = ?", (key_id,)).fetchone()
    return Key(**row) if row else None


def key_by_digest(db: SqliteConnection, digest: bytes) -> Key | None:
    """Return the key with this digest; None if there is none."""
    row = db.execute(_SELECT_KEYS + "WHERE digest = ?", (digest,)).fetchone()
    return Key(**row) if row else None


def revoke_key(db: SqliteConnection, key_id: str, now: float) -> Key | None:
    """Revoke the key, unless it is revoked already; return it, or None if there is none."""
    db.execute("UPDATE api_key SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (now, key_id))
    return key_by_id(db, key_id)


def grant(db: SqliteConnection, name: str, tokens: int, now: float) -> Account | None:
    """Add `tokens`, or take them if negative; None for an unknown name. Raises errors.InsufficientTokens."""
    row = db.execute("SELECT id, name, tokens FROM account WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    account = Account(**row)
    if account.tokens + tokens < 0:
        raise cannot_take(-tokens, account.tokens)
    _write_entry(db, account.id, Entry(new_id("entry"), tokens, Cause.GRANT, None, now))
    return replace(account, tokens=account.tokens + tokens)


def charge(db: SqliteConnection, job: Job) -> None:
    """Take the job's price. Raises errors.InsufficientTokens, and errors.NotFound for an unknown account."""
    account = find_account(db, job.account)
    if account is None:
        raise no_account(job.account)
    if account.tokens < job.tokens:
        raise cannot_pay(job.tokens, account.tokens)
    _write_entry(db, account.id, Entry(new_id("entry"), -job.tokens, Cause.CHARGE, job.id, job.created_at))


def refund(db: SqliteConnection, job: Job, draft: Draft, now: float) -> None:
    """Return the draft's refund to the job's account."""
    _write_entry(db, job.account, Entry(new_id("entry"), draft.refund, Cause.REFUND, job.id, now))


def _write_entry(db: SqliteConnection, account: str, entry: Entry) -> None:
    """Insert a ledger entry; a trigger changes the balance. Nothing else moves tokens."""
    if not entry.tokens:
        return
    row = (entry.id, account, entry.tokens, entry.cause, entry.job, entry.at)
    db.execute("INSERT INTO entry (id, account, tokens, cause, job, at) VALUES (?, ?, ?, ?, ?, ?)", row)


def find_account(db: SqliteConnection, account_id: str) -> Account | None:
    """Return the account; None if there is none."""
    row = db.execute("SELECT id, name, tokens FROM account WHERE id = ?", (account_id,)).fetchone()
    return Account(**row) if row else None


def list_accounts(db: SqliteConnection) -> list[Account]:
    """Return all accounts, sorted by name."""
    return [Account(**row) for row in db.execute("SELECT id, name, tokens FROM account ORDER BY name")]


def ledger(db: SqliteConnection, account: str, limit: int, before: str | None) -> Page[Entry]:
    """Return a page of the account's entries, newest first."""
    rows = db.execute(
        "SELECT id, tokens, cause, job, at FROM entry WHERE account = ? AND id < ? ORDER BY id DESC LIMIT ?",
        (account, before or AFTER_EVERY_ID, limit + 1),
    )
    return page(rows, limit, lambda row: Entry(**{**row, "cause": Cause(row["cause"])}))


def page(rows: Iterable[sqlite3.Row], limit: int, read: Callable[[sqlite3.Row], T]) -> Page[T]:
    """Return a page of `limit` rows, or about `PAGE_BYTES`. The query asks for one row more, to see if any follow."""
    found: list[sqlite3.Row] = []
    size = 0
    for row in rows:
        size += len(row["record"]) if "record" in row.keys() else 0  # noqa: SIM118 -- `in` on a row searches its values
        if len(found) == limit or (found and size > PAGE_BYTES):
            return Page([read(row) for row in found], found[-1]["id"])
        found.append(row)
    return Page([read(row) for row in found], None)
