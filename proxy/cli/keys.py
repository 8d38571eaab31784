"""`keys`: accounts' keys and tokens, beside a running server or without one."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import click

from proxy.cli.run import run
from proxy.core import keys as api_keys
from proxy.core.clock import SystemClock
from proxy.core.settings import Settings, load
from proxy.store import open_store
from proxy.store.contract import Accounts

_MOST_TOKENS: Final = 1 << 53
"""The largest whole number that every JSON reader keeps exactly."""


def _not_blank(_: click.Context, __: click.Parameter, name: str) -> str:
    if not name.strip():
        raise click.BadParameter("an account needs a name that is not blank")
    return name.strip()


@click.group()
def keys() -> None:
    """Accounts' keys and tokens; works while the server runs."""


@keys.command()
@click.option("--name", required=True, callback=_not_blank, help="The account; one that exists gets one more key.")
@click.option("--tokens", "granted", type=click.IntRange(0, _MOST_TOKENS), default=0, help="Tokens to grant with it.")
def create(name: str, granted: int) -> None:
    """Make a key and print it, alone, on standard output. It is not shown again."""
    secret = api_keys.new_key()
    _with_store(lambda store: store.create_key(name, api_keys.digest(secret), granted))
    click.echo(secret)


@keys.command("list")
def list_keys() -> None:
    """List keys (their ids, never the keys) and balances."""
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
    """Revoke a key by its id; its Links die with it."""
    if _with_store(lambda store: store.revoke_key(key_id)) is None:
        raise click.ClickException(f"There is no key {key_id}; `keys list` shows them.")
    click.echo(f"{key_id}  revoked")


@keys.command()
@click.option("--name", required=True, help="The account.")
@click.argument("amount", type=click.IntRange(-_MOST_TOKENS, _MOST_TOKENS))
def grant(name: str, amount: int) -> None:
    """Add tokens to an account (a negative AMOUNT takes)."""
    account = _with_store(lambda store: store.grant(name, amount))
    if account is None:
        raise click.ClickException(f"There is no account {name!r}; `keys create --name {name}` makes one.")
    click.echo(f"{account.name}  {account.tokens} tokens")


def _with_store(work: Callable[[Accounts], Awaitable[Any]]) -> Any:
    async def opened() -> Any:
        async with open_store(load(Settings).store, SystemClock()) as store:
            return await work(store)

    return run(opened)
