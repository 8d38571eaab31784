"""`python -m proxy.simulator --port 9000`: runs the simulator alone, for example for tests with curl."""

import argparse
import asyncio
import contextlib

from . import PROMPT_FAULTS, Simulator


async def run(simulator: Simulator, host: str, port: int) -> None:
    """Run the simulator until it is interrupted."""
    origin = await simulator.start(host, port)
    print(f"{len(simulator.providers)} providers listen on {origin}\n")  # noqa: T201
    for provider, key in simulator.keys.items():
        print(f"  {provider:<8} key {key}")  # noqa: T201
    print("\nWords that cause a fault if a prompt contains them:\n")  # noqa: T201
    for word, meaning in PROMPT_FAULTS.items():
        print(f"  {word:<10} {meaning}")  # noqa: T201
    try:
        await asyncio.Event().wait()
    finally:
        await simulator.stop()


def main() -> None:
    """Parse the options and run the simulator."""
    options = argparse.ArgumentParser(prog="python -m proxy.simulator", description=__doc__)
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=9000)
    options.add_argument("--speed", type=float, default=1.0, help="speed of simulated time, as a multiple of real time")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(Simulator(seed=chosen.seed, speed=chosen.speed), chosen.host, chosen.port))


if __name__ == "__main__":
    main()
