"""What one would write instead of the gateway, in a few lines each: the peers in Python, served by uvicorn."""

import asyncio
import logging
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import httpx
from fastapi import FastAPI, Request, Response

RUN = "/agent-runs/{run}"
JSON = "application/json"


def nothing() -> FastAPI:
    """An application that answers one request."""
    app = FastAPI()

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    return app


def over_aiohttp() -> FastAPI:
    """A GET passed on with one aiohttp session. ``BENCH_LOG=1``: and a line in the log."""
    log = logging.getLogger("bench")
    if os.environ.get("BENCH_LOG") == "1":
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logged, base = log.isEnabledFor(logging.INFO), _base()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            app.state.session = session
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get(RUN)
    async def run(request: Request, run: int) -> Response:
        began = time.perf_counter()
        headers = {"Authorization": request.headers["authorization"]}
        async with request.app.state.session.get(f"{base}/{run}", headers=headers) as answer:
            body, status = await answer.read(), answer.status
        if logged:
            took = (time.perf_counter() - began) * 1000
            log.info("%s %s %d %.1f ms", request.method, request.url.path, status, took)
        return Response(body, status, media_type=JSON)

    return app


def over_httpx() -> FastAPI:
    """The same with one shared httpx client."""
    base = _base()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(trust_env=False) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get(RUN)
    async def run(request: Request, run: int) -> Response:
        headers = {"Authorization": request.headers["authorization"]}
        answer = await request.app.state.client.get(f"{base}/{run}", headers=headers)
        return Response(answer.content, answer.status_code, media_type=JSON)

    return app


def queues() -> FastAPI:
    """Live logs by sse-starlette, with a queue per viewer: ``POST /pub/7`` is sent to all who have ``GET /sub/7``."""
    from sse_starlette import EventSourceResponse  # noqa: PLC0415 - only this one needs it

    app, viewers = FastAPI(), defaultdict[int, set[asyncio.Queue[str]]](set)

    async def events(channel: int) -> AsyncIterator[dict[str, str]]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        viewers[channel].add(queue)
        try:
            while True:
                yield {"event": "log", "data": await queue.get()}
        finally:
            viewers[channel].discard(queue)

    @app.post("/pub/{channel}")
    async def publish(channel: int, request: Request) -> Response:
        said = (await request.body()).decode()
        for queue in viewers[channel]:
            queue.put_nowait(said)
        return Response(status_code=201)

    @app.get("/sub/{channel}")
    async def subscribe(channel: int) -> EventSourceResponse:
        return EventSourceResponse(events(channel), ping=15)

    return app


def _base() -> str:
    """Where the runs are."""
    return os.environ["BENCH_HOST"] + "/v1/organizations/1/agent/run"
