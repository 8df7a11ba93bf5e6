"""Write down a whole run of a real agent host: what it is asked, and what it answers, as JSON.

``TEST_HOSTS=DIRECTORY python -m scripts.record_host aegra FILE`` starts the host as the tests do. An
exchange is ``{"method", "path", "body", "status", "type", "answer"}``; the answer is JSON, or the text of a stream. One
that is the same as the one before is left out, and the middle of long texts is.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from tests.end_to_end.processes import eventually
from tests.upstreams.hosts.running import RealHost
from tests.upstreams.test_hosts_start import ANSWER, BEGIN, PROMPT

LONGEST = 400


def short(value: Any) -> Any:
    """``value`` without the middle of its long texts."""
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{value[: LONGEST // 2]} [...] {value[-LONGEST // 4 :]}"
    if isinstance(value, dict):
        return {name: short(each) for name, each in value.items()}
    return [short(each) for each in value] if isinstance(value, list) else value


def exchange(answer: httpx.Response) -> dict[str, Any]:
    kind = answer.headers.get("content-type", "").partition(";")[0]
    stream = kind == "text/event-stream"
    frames = [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:")] if stream else []
    asked = answer.request
    return {
        "method": asked.method,
        "path": asked.url.raw_path.decode(),
        "body": short(json.loads(asked.content)) if asked.content else None,
        "status": answer.status_code,
        "type": kind,
        "answer": short(frames if stream else answer.json() if kind.endswith("json") else answer.text),
    }


def record(host: RealHost) -> list[dict[str, Any]]:
    exchanges: list[dict[str, Any]] = []

    def note(answer: httpx.Response) -> None:
        answer.read()
        noted = exchange(answer)
        if not exchanges or noted != exchanges[-1]:
            exchanges.append(noted)

    with host.client() as client:
        client.event_hooks = {"response": [note]}
        read = BEGIN[type(host)](host, client)
        eventually(read, lambda log: ANSWER in log)
    return exchanges


def main() -> None:
    name, file = sys.argv[1:]
    kind = next(each for each in BEGIN if each.name == name)
    if (reason := kind.missing()) is not None:
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as directory, kind(Path(directory)) as host:
        text = json.dumps({"host": name, "prompt": PROMPT, "exchanges": record(host)}, indent=1)
        local = {host.token: "TOKEN", directory: "/DIRECTORY", host.url: "http://HOST", sys.prefix: "/PYTHON"}
        for given, word in local.items():
            text = text.replace(given, word) if given else text
        Path(file).write_text(text.replace(host.model.url, "http://MODEL") + "\n")


if __name__ == "__main__":
    main()
