"""Watch a run live, with httpx: python follow.py http://127.0.0.1:8000 sandbox-alice 12345

Reads the log as JSON lines, reconnects after every disconnect with the last event id, and stops at the end of the log.
"""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx

TRY_AGAIN = (429, 502, 503, 504)
PATIENCE = httpx.Timeout(5, read=60)  # a heartbeat comes every 15 seconds: a minute of silence is a dead connection


def follow(base: str, token: str, run: str, position: str = "") -> Iterator[dict[str, Any]]:
    """Yield the events of the run's log after ``position``, live."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/x-ndjson"}
    while True:
        wait = 2.0
        if position:
            headers["Last-Event-ID"] = position
        try:
            url = f"{base}/agent-runs/{run}/logs/stream"
            with httpx.stream("GET", url, headers=headers, timeout=PATIENCE) as response:
                if response.status_code in TRY_AGAIN:
                    wait = float(response.headers.get("Retry-After", wait))
                else:
                    if not response.is_success:
                        raise RuntimeError(response.read().decode())
                    for line in response.iter_lines():
                        event = json.loads(line)
                        position = event.get("id") or position
                        yield event
                        if event["event"] in ("end", "failure"):
                            return
                        if event["event"] == "notice" and event["data"]["retry_in"]:
                            wait = event["data"]["retry_in"]
        except httpx.TransportError:
            pass
        time.sleep(wait)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit("usage: python follow.py URL TOKEN RUN [POSITION]")
    try:
        for each in follow(*sys.argv[1:]):
            print(json.dumps(each), flush=True)
    except RuntimeError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
