"""`app` for ASGI servers (`uvicorn server:app`), and the commands (`python server.py serve`)."""

from typing import TYPE_CHECKING

from proxy.cli import main

if TYPE_CHECKING:
    from proxy.app import Pollcast

    app: Pollcast


def __getattr__(name: str) -> object:
    # Made when it is asked for: the commands have settings of their own to read first.
    if name == "app":
        from proxy.app import hosted  # noqa: PLC0415

        return hosted()
    raise AttributeError(name)


if __name__ == "__main__":
    main()
