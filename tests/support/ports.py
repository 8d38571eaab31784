"""Free ports for servers that need a port number before they listen."""

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """Return a free port that no other process gets by chance before it is used.

    Those that Linux gives out by itself begin at 32768: one of them could be another test's a moment later.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
