"""``python sse_clients.py CLIENT URL TOKEN``: reads a live log with that client, as its documents say, until it ends.

Coming back after a cut is left to the client where it does so by itself. Prints the position of each entry as it comes.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

URL, TOKEN = sys.argv[2:]
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SOON = 0.01


def heard(name: str | None, data: str | None) -> bool:
    """Note an event; whether it is the last one."""
    if name == "log":
        print(json.loads(data or "")["position"], flush=True)
    assert name != "failure", data
    return name == "end"


def with_httpx_sse() -> None:
    import httpx
    import httpx_sse

    last, over = "", False
    with httpx.Client(timeout=60) as client:
        while not over:
            headers = {**HEADERS, **({"Last-Event-ID": last} if last else {})}
            try:
                with httpx_sse.connect_sse(client, "GET", URL, headers=headers) as source:
                    for event in source.iter_sse():
                        last = event.id or last
                        over = over or heard(event.event, event.data)
            except httpx.TransportError:
                pass
            time.sleep(SOON)


def with_sseclient() -> None:
    import requests
    import sseclient

    last, over = "", False
    while not over:
        headers = {**HEADERS, **({"Last-Event-ID": last} if last else {})}
        try:
            with requests.get(URL, headers=headers, stream=True, timeout=60) as answer:
                said: Any = answer  # the library takes what its own documents show, and says less
                for event in sseclient.SSEClient(said).events():
                    last = event.id or last
                    over = over or heard(event.event, event.data)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            pass
        time.sleep(SOON)


def with_requests_sse() -> None:
    import requests_sse

    soon = timedelta(seconds=SOON)
    with requests_sse.EventSource(URL, headers=HEADERS, reconnection_time=soon, timeout=60) as source:
        for event in source:
            if heard(event.type, event.data):
                return


async def with_aiohttp_sse_client() -> None:
    import aiohttp
    from aiohttp_sse_client2.client import EventSource

    last = ""
    soon = timedelta(seconds=SOON)
    while True:
        headers = {**HEADERS, **({"Last-Event-ID": last} if last else {})}
        try:
            async with EventSource(URL, headers=headers, reconnection_time=soon, max_connect_retry=5) as source:
                async for event in source:
                    last = event.last_event_id or last
                    if heard(event.type, event.data):
                        return
        except aiohttp.ClientError:
            await asyncio.sleep(SOON)


CLIENTS: dict[str, Callable[[], None]] = {
    "httpx-sse": with_httpx_sse,
    "sseclient-py": with_sseclient,
    "requests-sse": with_requests_sse,
    "aiohttp-sse-client2": lambda: asyncio.run(with_aiohttp_sse_client()),
}

if __name__ == "__main__":
    CLIENTS[sys.argv[1]]()
