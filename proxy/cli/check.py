"""`check`: whether what is set up works."""

import sys

import click

from proxy.app import Pollcast
from proxy.cli.checkup import checkup
from proxy.cli.run import run
from proxy.core.clock import SystemClock
from proxy.core.settings import Settings, load
from proxy.core.text import replace_unprintable
from proxy.providers import PROVIDERS


@click.command()
def check() -> None:
    """Try the settings, the store, the assets' storage and every provider's key, without paying for anything.

    Exits with 0 when everything that is set up works, else with 1.
    """
    sys.exit(0 if run(_check) else 1)


async def _check() -> bool:
    settings = load(Settings)
    Pollcast(settings)  # knows what a single setting does not show: it raises BadSetting
    works = True
    async for finding in checkup(settings, {kind: load(kind.settings_type) for kind in PROVIDERS}, SystemClock()):
        click.echo(replace_unprintable(str(finding)))
        works = works and finding.works
    return works
