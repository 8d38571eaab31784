"""`doctor`: what stands between a server and its users, and what mends it."""

from contextlib import aclosing

import click

from proxy.cli.probe import Examination
from proxy.cli.run import run
from proxy.core.text import replace_unprintable


@click.command()
@click.argument("url")
@click.option(
    "--key",
    default="",
    envvar="POLLCAST_KEY",
    show_envvar=True,
    help="A key, to see whether it gets through and where Links lead.",
)
@click.option("--idle", type=click.FloatRange(0, 15), default=12, show_default=True, help="Seconds with heartbeats.")
@click.option("--silence", type=click.FloatRange(0, 90), default=0, help="Seconds without any, to find a time-out.")
def doctor(url: str, key: str, idle: float, silence: float) -> None:
    """Say what the proxies in front of a server do to its streams, and what mends it; status 1 if anything does."""
    if not run(lambda: _examine(Examination(url, key, idle, silence))):
        raise SystemExit(1)


async def _examine(examination: Examination) -> bool:
    good = True
    async with aclosing(examination.findings()) as findings:
        async for finding in findings:
            click.echo(f"{'ok' if finding.good else 'TROUBLE':8} {replace_unprintable(finding.text)}")
            for line in finding.mend:
                click.echo(f"{'':8}   {replace_unprintable(line)}")
            good = good and finding.good
    return good
