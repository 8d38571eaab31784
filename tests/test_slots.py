"""Room at a provider, shared fairly."""

import asyncio

from proxy.slots import Slots


async def waiting(slots: Slots, account: str, served: list[str]) -> None:
    await slots.acquire(account)
    served.append(account)


async def start(slots: Slots, served: list[str], accounts: str) -> list["asyncio.Task[None]"]:
    tasks = [asyncio.create_task(waiting(slots, account, served)) for account in accounts]
    await asyncio.sleep(0)
    return tasks


async def test_a_free_slot_is_had_at_once_and_the_next_one_waits() -> None:
    slots, served = Slots(2), list[str]()
    tasks = await start(slots, served, "aaa")
    assert served == ["a", "a"]
    slots.release()
    await tasks[2]
    assert served == ["a", "a", "a"]


async def test_accounts_take_turns_however_many_each_has_waiting() -> None:
    slots, served = Slots(1), list[str]()
    await slots.acquire("x")
    tasks = await start(slots, served, "aaaabbc")
    for _ in tasks:
        slots.release()
    await asyncio.gather(*tasks)
    assert "".join(served) == "abcabaa"


async def test_who_no_longer_waits_is_passed_over() -> None:
    slots, served = Slots(1), list[str]()
    await slots.acquire("x")
    first, second = await start(slots, served, "ab")
    first.cancel()
    await asyncio.sleep(0)
    slots.release()
    await second
    assert served == ["b"]


async def test_a_slot_handed_over_in_the_moment_of_a_cancel_is_not_lost() -> None:
    slots, served = Slots(1), list[str]()
    await slots.acquire("x")
    first, second = await start(slots, served, "ab")
    slots.release()
    first.cancel()
    await second
    slots.release()
    await asyncio.wait_for(slots.acquire("y"), 1)
    assert served == ["b"]
