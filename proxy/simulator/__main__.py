"""`python -m proxy.simulator --port 9000`: the pretend world alone, to be tried with curl."""

import argparse
import asyncio
import contextlib

from . import PROMPT_FAULTS, Simulator


async def run(simulator: Simulator, host: str, port: int) -> None:
    """Serve until interrupted."""
    origin = await simulator.start(host, port)
    print(f"Five providers listen on {origin}\n")  # noqa: T201
    for provider, key in simulator.keys.items():
        print(f"  {provider:<8} key {key}")  # noqa: T201
    print("\nWords in a prompt:\n")  # noqa: T201
    for word, meaning in PROMPT_FAULTS.items():
        print(f"  {word:<10} {meaning}")  # noqa: T201
    try:
        await asyncio.Event().wait()
    finally:
        await simulator.stop()


def main() -> None:
    """Read the options and serve."""
    options = argparse.ArgumentParser(prog="python -m proxy.simulator", description=__doc__)
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=9000)
    options.add_argument("--speed", type=float, default=1.0, help="how fast simulated time passes")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(Simulator(seed=chosen.seed, speed=chosen.speed), chosen.host, chosen.port))


if __name__ == "__main__":
    main()
