"""One way to ask an upstream from a plain test function."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from codegen_api.identity import Credential
from codegen_api.runs import RunRef
from codegen_api.upstreams import NewRun
from codegen_api.upstreams.codegen import CodegenUpstream

from .rawhost import ANSWERED, RawHost, Script, raw_host

T = TypeVar("T")

TOKEN = "sk-0123456789"
CREDENTIAL = Credential.of(TOKEN, b"key")
REF = RunRef("323", "41894")
RUN = b'{"id":41894,"organization_id":323,"status":"ACTIVE"}'

Ask = Callable[[CodegenUpstream], Awaitable[T]]


def get_run(upstream: CodegenUpstream) -> Awaitable[object]:
    return upstream.get_run(CREDENTIAL, REF)


def create_run(upstream: CodegenUpstream) -> Awaitable[object]:
    return upstream.create_run(CREDENTIAL, "323", NewRun("Say hello"))


async def asked(upstream: CodegenUpstream, ask: Ask[T]) -> T:
    """The answer to one question; whatever comes, the connections are closed and the wait is bounded."""
    try:
        async with asyncio.timeout(ANSWERED):
            return await ask(upstream)
    finally:
        await upstream.aclose()


def ask_upstream(upstream: CodegenUpstream, ask: Ask[T]) -> T:
    return asyncio.run(asked(upstream, ask))


def ask_raw(connect: Callable[..., CodegenUpstream], script: Script, ask: Ask[T], **more: float) -> tuple[T, RawHost]:
    """Ask a raw host that plays ``script``."""

    async def play() -> tuple[T, RawHost]:
        async with raw_host(script) as host:
            return await asked(connect(host.url, **more), ask), host

    return asyncio.run(play())


def fault_of(
    connect: Callable[..., CodegenUpstream], script: Script, ask: Ask[object] = get_run, **more: float
) -> tuple[BaseException, RawHost, CodegenUpstream]:
    """The error that a raw host's behaviour ends in."""

    async def play() -> tuple[BaseException, RawHost, CodegenUpstream]:
        async with raw_host(script) as host:
            upstream = connect(host.url, **more)
            try:
                await asked(upstream, ask)
            except Exception as error:
                return error, host, upstream
        raise AssertionError("nothing went wrong")

    return asyncio.run(play())
