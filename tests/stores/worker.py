"""A process of its own with a store in it. It says when it is ready, waits to be told to go, and says what it did."""

import asyncio
import itertools
import os
import sys
from dataclasses import replace

from codegen_api.stores import Busy, Store, TurnState
from tests.stores.things import ME, agent, conversation, opened, turn


def say(word: object) -> None:
    print(word, flush=True)


async def open_(store: Store) -> None:
    await store.add_agent(ME, agent(str(os.getpid())))


async def add(store: Store) -> None:
    """One turn, at the same time as others."""
    try:
        added = await store.add_turn(ME, turn(str(os.getpid())))
        say(f"added {added.number}")
    except Busy as busy:
        say(f"busy {busy.turn.number}")


async def write(store: Store) -> None:
    """Turn after turn, each named when it is there, until somebody puts an end to it."""
    for number in itertools.count():
        talk = f"{os.getpid()}.{number}"
        await store.add_conversation(ME, conversation(talk))
        added = await store.add_turn(ME, turn(talk, talk, prompt="x" * 5_000))
        await store.change_turn(ME, added, replace(added, state=TurnState.COMPLETED, answer="y" * 5_000))
        say(talk)


async def main(url: str, what: str) -> None:
    say("ready")
    sys.stdin.readline()
    async with opened(url) as store:
        await {"open": open_, "add": add, "write": write}[what](store)
    say("done")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
