"""Signals: first the streams end, then the server hears of it."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

import pytest

from codegen_api.http.draining import REQUEST_SECONDS, SIGINT_SECONDS, Drain
from tests import virtual

pytestmark = pytest.mark.wire("drain-streams")


class Server:
    """Handles signals as a server does, and notes what happened in which order."""

    def __init__(self) -> None:
        self.happened: list[object] = []
        self.left = asyncio.Event()
        self.stopped = asyncio.Event()

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.happened.append(signal.Signals(number))
        self.stopped.set()

    async def empty(self, seconds: float) -> None:
        self.happened.append(seconds)
        await self.left.wait()
        self.happened.append("empty")

    def cut(self) -> None:
        self.happened.append("cut")

    def give_up(self) -> None:
        self.happened.append("give up")

    def handle_signals(self, drain: Drain) -> None:
        drain.handle_signals(self.empty, self.cut, self.give_up)


def quick(seconds: float = 20) -> Drain:
    return Drain(seconds, request_seconds=0.05)


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> "object":
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def served(play: Callable[[Server, Drain], "asyncio.Future[None] | object"], seconds: float = 20) -> Server:
    async def main() -> Server:
        server = Server()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle)
        drain = quick(seconds)
        server.handle_signals(drain)
        async with asyncio.timeout(10):
            await play(server, drain)  # type: ignore[misc]
        drain.restore_signals()
        assert signal.getsignal(signal.SIGTERM) == server.handle
        assert signal.getsignal(signal.SIGINT) == server.handle
        return server

    return asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in a signal handler
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("number", "seconds", "given"),
    [
        (signal.SIGTERM, 20, 20),
        (signal.SIGINT, 20, SIGINT_SECONDS),
        (signal.SIGTERM, 1, 1),
        (signal.SIGINT, 1, 1),
    ],
)
def test_the_server_hears_of_a_signal_when_the_streams_have_ended(
    number: signal.Signals, seconds: float, given: float
) -> None:
    async def play(server: Server, drain: Drain) -> None:
        before: str = drain.phase
        assert before == "ready"
        os.kill(os.getpid(), number)
        await until(lambda: server.happened)
        assert drain.phase == "draining"
        assert server.happened == [given]
        server.left.set()
        await server.stopped.wait()

    assert served(play, seconds).happened == [given, "empty", "cut", number]


@pytest.mark.wire("drain-streams")
def test_requests_that_are_not_answered_a_while_later_are_given_up() -> None:
    async def play(server: Server, drain: Drain) -> None:
        server.left.set()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: "give up" in server.happened)

    assert served(play, 0.05).happened == [0.05, "empty", "cut", signal.SIGTERM, "give up"]


@pytest.mark.wire("drain-requests")
@pytest.mark.parametrize(
    ("number", "seconds", "given_up"),
    [
        (signal.SIGTERM, 0.1, REQUEST_SECONDS),
        (signal.SIGTERM, 3, REQUEST_SECONDS),
        (signal.SIGTERM, 20, 20),
        (signal.SIGINT, 20, SIGINT_SECONDS),
    ],
)
def test_requests_have_ten_seconds_however_short_the_drain_is(
    number: signal.Signals, seconds: float, given_up: float
) -> None:
    async def main() -> None:
        server = Server()
        signal.signal(number, server.handle)
        ended: list[float] = []
        server.left.set()  # there are no streams, or they end at once
        drain = Drain(seconds)
        drain.handle_signals(server.empty, server.cut, lambda: ended.append(asyncio.get_running_loop().time()))
        drain._begin(number)
        await asyncio.sleep(60)
        drain.restore_signals()
        assert ended == [given_up]

    virtual.run(main())


def test_a_second_sigterm_changes_nothing() -> None:
    async def play(server: Server, drain: Drain) -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: server.happened)
        server.left.set()
        await server.stopped.wait()

    assert served(play).happened == [20, "empty", "cut", signal.SIGTERM]


def test_who_presses_the_keys_twice_does_not_wait() -> None:
    async def play(server: Server, drain: Drain) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: server.happened)
        os.kill(os.getpid(), signal.SIGINT)
        await server.stopped.wait()
        assert server.happened == [2.0, signal.SIGINT]
        server.left.set()
        await until(lambda: "cut" in server.happened)

    served(play)


async def test_what_ends_badly_ends_all_the_same() -> None:
    """A fault while the streams are asked to leave must not keep the process alive for ever."""

    server = Server()
    signal.signal(signal.SIGTERM, server.handle)

    async def broken(seconds: float) -> None:
        raise RuntimeError

    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    drain = Drain(20)
    drain.handle_signals(broken, server.cut, server.give_up)
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        async with asyncio.timeout(10):
            await server.stopped.wait()
    finally:
        drain.restore_signals()


async def test_where_nobody_handles_a_signal_it_is_left_alone() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    drain = quick()
    Server().handle_signals(drain)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    drain.restore_signals()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_in_a_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    failed: list[BaseException] = []

    def serve() -> None:
        async def main() -> None:
            drain = quick()
            Server().handle_signals(drain)
            assert signal.getsignal(signal.SIGINT) is before
            drain.restore_signals()

        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join(10)
    assert not failed
