"""`keys`: manages API keys and token balances, with or without a running server."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import click

from proxy.cli.run import run
from proxy.core import keys as api_keys
from proxy.core.clock import SystemClock
from proxy.core.settings import Settings, load
from proxy.store import open_store
from proxy.store.contract import Accounts

_MAX_TOKENS: Final = 1 << 53
"""Largest integer that every JSON parser reads exactly."""


def _not_blank(_: click.Context, __: click.Parameter, name: str) -> str:
    if not name.strip():
        raise click.BadParameter("the account's name must not be blank")
    return name.strip()


@click.group()
def keys() -> None:
    """Manage API keys and token balances. Works while the server runs."""


@keys.command()
@click.option(
    "--name", required=True, callback=_not_blank, help="Account of the key. An existing account gets an additional key."
)
@click.option(
    "--tokens", "granted", type=click.IntRange(0, _MAX_TOKENS), default=0, help="Tokens to grant to the account."
)
def create(name: str, granted: int) -> None:
    """Create a key and print it to standard output. It is not shown again."""
    secret = api_keys.new_key()
    _with_store(lambda store: store.create_key(name, api_keys.digest(secret), granted))
    click.echo(secret)


@keys.command("list")
def list_keys() -> None:
    """List the ids of all keys, and the balances. Keys themselves are not shown."""
    found, accounts = _with_store(_keys_and_accounts)
    balances = {account.id: account.tokens for account in accounts}
    for key in found:
        state = "revoked" if key.revoked_at is not None else "active"
        click.echo(f"{key.id}  {state:7}  {key.name}  {balances[key.account]} tokens")


async def _keys_and_accounts(store: Accounts) -> tuple[Sequence[Any], Sequence[Any]]:
    return await store.keys(), await store.accounts()


@keys.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Revoke a key by its id. Its Links become invalid as well."""
    if _with_store(lambda store: store.revoke_key(key_id)) is None:
        raise click.ClickException(f"There is no key {key_id}. List the keys with `keys list`.")
    click.echo(f"{key_id}  revoked")


@keys.command()
@click.option("--name", required=True, help="Name of the account.")
@click.argument("amount", type=click.IntRange(-_MAX_TOKENS, _MAX_TOKENS))
def grant(name: str, amount: int) -> None:
    """Add tokens to an account. A negative AMOUNT removes tokens."""
    account = _with_store(lambda store: store.grant(name, amount))
    if account is None:
        raise click.ClickException(f"There is no account {name!r}. Create it with `keys create --name {name}`.")
    click.echo(f"{account.name}  {account.tokens} tokens")


def _with_store(work: Callable[[Accounts], Awaitable[Any]]) -> Any:
    async def run_with_store() -> Any:
        async with open_store(load(Settings).store, SystemClock()) as store:
            return await work(store)

    return run(run_with_store)
