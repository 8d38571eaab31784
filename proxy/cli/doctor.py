"""`doctor`: reports how the proxies in front of a server treat its streams, and how to fix them."""

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
    help="API key. With it, doctor also tests the Authorization header and the URLs of Links.",
)
@click.option(
    "--idle",
    type=click.FloatRange(0, 15),
    default=12,
    show_default=True,
    help="Seconds of an idle stream with heartbeats.",
)
@click.option(
    "--silence",
    type=click.FloatRange(0, 90),
    default=0,
    help="Seconds of a stream without heartbeats, to find a timeout. 0 skips it.",
)
def doctor(url: str, key: str, idle: float, silence: float) -> None:
    """Test how the proxies in front of the server at URL treat its streams, and print fixes.

    Exit status 0 means that no problem was found. Otherwise it is 1.
    """
    if not run(lambda: _examine(Examination(url, key, idle, silence))):
        raise SystemExit(1)


async def _examine(examination: Examination) -> bool:
    is_good = True
    async with aclosing(examination.findings()) as findings:
        async for finding in findings:
            click.echo(f"{'ok' if finding.is_good else 'PROBLEM':8} {replace_unprintable(finding.text)}")
            for line in finding.fixes:
                click.echo(f"{'':8}   {replace_unprintable(line)}")
            is_good = is_good and finding.is_good
    return is_good
