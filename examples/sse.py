"""Watch a run live, with requests and sseclient-py: python sse.py http://127.0.0.1:8000 sandbox-alice 12345

sseclient-py reads the events of one connection; this opens the next one behind the last event.
"""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import requests
import sseclient

TRY_AGAIN = (429, 502, 503, 504)
CUT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def follow(base: str, token: str, run: str, position: str = "") -> Iterator[dict[str, Any]]:
    """Yield the events of the run's log after ``position``, live."""
    while True:
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream", "Last-Event-ID": position}
        wait = 2.0
        try:
            url = f"{base}/agent-runs/{run}/logs/stream"
            with requests.get(url, headers=headers, stream=True, timeout=(5, 60)) as response:
                if response.status_code == 204:  # nothing new since the end
                    return
                if response.status_code not in TRY_AGAIN:
                    if not response.ok:
                        raise RuntimeError(response.text)
                    for event in sseclient.SSEClient(response).events():
                        position = event.id or position
                        wait = int(event.retry or 2000) / 1000
                        yield {"event": event.event, "id": event.id, "data": json.loads(event.data)}
                        if event.event in ("end", "failure"):
                            return
        except CUT:
            pass
        time.sleep(wait)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit("usage: python sse.py URL TOKEN RUN [POSITION]")
    try:
        for each in follow(*sys.argv[1:]):
            print(json.dumps(each), flush=True)
    except RuntimeError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
