"""How the tour in ``tests/test_documents.py`` runs what it shows: to the letter, but for the address and the token."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx

from tests.end_to_end.processes import BOB, WAIT, Server, environment, program
from tests.leaks import WATCH

ADDRESS = re.compile(r"http://localhost:(8000|9000)")
TOKENS = {"sk-YOUR-TOKEN": "sandbox-bob", "YOUR_TOKEN": "sandbox-alice"}
"""Whose the tokens in examples are."""

SDK_KEYS = ("LANGGRAPH_API_KEY", "LANGSMITH_API_KEY", "LANGCHAIN_API_KEY")
"""Where an SDK would find a key that the example does not give it."""


def here(site: Server, example: str) -> str:
    """The example with the address of this gateway, and with a token that the sandbox knows."""
    for shown, token in TOKENS.items():
        WATCH.secret("a token", token)
        example = example.replace(shown, token)
    return ADDRESS.sub(site.url, example)


@dataclass(frozen=True)
class Running:
    """An example that runs in a process of its own."""

    process: "subprocess.Popen[bytes]"
    output: IO[bytes]
    errors: IO[bytes]

    def printed(self) -> str:
        """All that it printed, once it has ended well."""
        status = self.process.wait(2 * WAIT)
        for file in (self.output, self.errors):
            file.seek(0)
        printed, errors = self.output.read().decode(), self.errors.read().decode()
        assert status == 0, printed + errors
        return printed


@contextmanager
def started(site: Server, example: str, *command: str, **settings: str) -> Iterator[Running]:
    """The example, read by ``command`` from its standard input. It ends with the block, whether it is done or not."""
    kept = {name: value for name, value in environment(**settings).items() if name not in SDK_KEYS}
    kept["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), kept["PATH"]]
    )  # its python is the one of the tests
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryDirectory() as directory,
    ):
        source.write(here(site, example).encode())
        source.seek(0)
        with subprocess.Popen(
            command, stdin=source, stdout=output, stderr=errors, cwd=directory, env={**kept, "PIP_NO_INDEX": "1"}
        ) as process:
            try:
                yield Running(process, output, errors)
            finally:
                process.kill()


def shell(site: Server, example: str, **settings: str) -> str:
    """What these lines print when they are pasted into a shell."""
    for name in re.findall(r"\b(?:curl|jq)\b", example):
        program(name)
    with started(site, example, "sh", "-e", **settings) as running:
        return running.printed()


def python(site: Server, example: str) -> str:
    """What this program prints."""
    with started(site, example, sys.executable, "-") as running:
        return running.printed()


def javascript(site: Server, example: str) -> str:
    """The same, in Node."""
    with started(site, example, program("node"), "--input-type=module", "-") as running:
        return running.printed()


def notebook(cells: str) -> str:
    """The code cells of a notebook as one program. A line that begins with ``!`` is for the shell."""
    return re.sub(r"^!(.+)$", r"import subprocess; subprocess.run('\1', shell=True, check=True)", cells, flags=re.M)


@contextmanager
def asking(site: Server, example: str, **values: str) -> Iterator[httpx.Response]:
    """The answer, as it comes, to a request that is written down as HTTP has it. Bob sends it, with ``values`` in its
    path."""
    head, _, body = example.strip().partition("\n\n")
    first, *fields = head.split("\n")
    method, path = first.format(**values).split(" ")
    headers = {**BOB, **dict(field.split(": ", 1) for field in fields)}
    WATCH.sent(headers)
    with site.client.stream(method, site.url + path, content=body, headers=headers) as response:
        yield response


def ask(site: Server, example: str, **values: str) -> httpx.Response:
    """The same, when it has come."""
    with asking(site, example, **values) as response:
        response.read()
    WATCH.answer(response.status_code, response.text)
    return response


def events(stream: str) -> list[dict[str, Any]]:
    """The server-sent events of a whole stream: ``event``, ``id`` where it has one, and ``data``, from JSON."""
    blocks = [block.split("\n") for block in stream.replace("\r\n", "\n").split("\n\n")]
    told = [dict(line.split(": ", 1) for line in block if line and line[0] != ":") for block in blocks]
    return [{**event, "data": json.loads(event["data"])} for event in told if "data" in event]


def names(told: list[dict[str, Any]]) -> list[str]:
    """What the events are called, in their order."""
    return [event["event"] for event in told]
