"""Whether anything secret stands where it must not: in a log, or in the body of an error.

Whoever starts a process, serves an application or sends a request here hands in what was secret and what was written;
``tests/conftest.py`` compares the two when all tests have run, and fails the run for what it finds.
"""

import functools
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SHORTEST, KINDS = 5, 4
"""What has fewer characters, or fewer different ones, may stand anywhere by chance."""

ORDINARY = re.compile(r"[A-Za-z]?[a-z]*( [a-z]+)?")
"""A word or two of plain English, which any sentence may have: "nobody", "Fix it"."""

LONGEST = 60
"""Of a longer secret, this much is looked for: a part of it is as bad as the whole."""

PLAIN = re.compile(r"[A-Za-z0-9 _.,:;!?#+*=<>-]+")
"""What looks the same in JSON, in a ``repr`` and in plain text."""

IN_URL = re.compile(r"""(?<!\w)(?:ticket|token|access_token)=[^\s"'&]+""")
"""A secret in a URL, whatever it is."""

KEY = re.compile(r"\bcgk_[\w-]+")
"""A key of the gateway's own."""

ID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
PART_OF_ID = re.compile(r"[0-9a-f]{4}")
"""An id, by which thousands of answers differ that say the same; and what a secret has that may lie in one."""

PRINCIPAL = re.compile(r"""(?<= )principal=\S+|"principal": ?"[^"]*\"""")
"""Who asked, which a log says on purpose: a name, that some test may also have as a token."""


@functools.cache
def announced() -> frozenset[str]:
    """What the front door says to who started it, with the tokens of the sandbox or a new key in it."""
    # here, and not above: it takes longer than everything else that a run of a few tests needs
    from codegen_api.program.local_hosts import NEW_KEY, SANDBOX_LINES, SANDBOX_TOKEN, TRY_IT
    from codegen_api.program.serve import LET_IN

    told = (
        *(TRY_IT.format(url="URL", token=token) for token in (SANDBOX_TOKEN, "KEY", "$KEY")),
        SANDBOX_LINES.format(host="URL"),
        NEW_KEY.format(key="KEY"),
        LET_IN.format(who=SANDBOX_TOKEN),
    )
    return frozenset(line for text in told for line in text.splitlines())


@dataclass
class Watch:
    """What is secret, and what it is; what was written, and where."""

    secrets: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)

    def secret(self, what: str, text: str) -> None:
        """This must not be found anywhere."""
        plain = max(PLAIN.findall(text), key=len, default="").strip()[:LONGEST]
        if len(plain) >= SHORTEST and len(set(plain)) >= KINDS and not ORDINARY.fullmatch(plain):
            self.secrets.setdefault(plain, what)

    def sent(self, headers: Mapping[str, str], body: object = None) -> None:
        """A request is made: its token and its prompt are secret."""
        scheme, _, token = dict(headers).get("Authorization", "").partition(" ")
        if scheme == "Bearer":
            self.secret("a token", token)
        if isinstance(body, dict) and isinstance(body.get("prompt"), str):
            self.secret("a prompt", body["prompt"])

    def log(self, source: str, text: str) -> None:
        """``source`` logged this. Each test's name is noted, so that what is found can be found again."""
        self.written.setdefault(
            PRINCIPAL.sub("", text), f"{source}, {os.environ.get('PYTEST_CURRENT_TEST', 'between tests')}"
        )

    def output(self, source: str, text: str) -> None:
        """A front door or a sandbox printed this: what it is to say, and nothing else, may name a token."""
        lines = re.sub(r"http://127\.0\.0\.1:[0-9]+", "URL", text).splitlines()
        self.log(source, "\n".join(line for line in lines if KEY.sub("KEY", line) not in announced()))

    def answer(self, status: int, text: str) -> None:
        """A client got this: the body of an error is for everybody's eyes."""
        if status >= 400:
            self.log(f"body of a {status}", text)

    def handed_over(self) -> str:
        """All of it, for the watch of another process: secrets of this one may stand in what that one wrote."""
        return json.dumps([self.secrets, self.written])  # in ASCII: a text may hold what UTF-8 has no bytes for

    def take_over(self, handed_over: str) -> None:
        """What the watch of another process has seen is as if seen by this one."""
        secrets, written = json.loads(handed_over)
        self.secrets = {**secrets, **self.secrets}
        self.written = {**written, **self.written}

    def found(self) -> list[str]:
        """Each secret that stands somewhere, with the line it stands in."""
        whole, alike = "\n".join(self.written), "\n".join({ID.sub("", text) for text in self.written})
        suspects = {
            secret: what
            for secret, what in self.secrets.items()
            if secret in (whole if PART_OF_ID.search(secret) else alike)
        }
        return [
            f"{what} in the {where}: {line.strip()[:300]}"
            for text, where in self.written.items()
            for line in text.splitlines()
            for what in _in_line(line, suspects)
        ]


def _in_line(line: str, secrets: Mapping[str, str]) -> Iterator[str]:
    yield from (f"{what} ({secret!r})" for secret, what in secrets.items() if secret in line)
    yield from (f"a secret in a URL ({each!r})" for each in IN_URL.findall(line))


class Handler(logging.Handler):
    """Hands in what the applications in this process log, each text once, with what Python adds to it."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] not in ("httpx", "httpcore"):  # the tests' own clients tell where they went
            self._watch.log(f"log of {record.name}", self.format(record))


def sandbox_texts() -> Iterator[str]:
    """What the agents in the sandbox write, as far as it is a sentence of its own."""
    from codegen_api.sandbox.scenarios import Cue, example_script, scenario_names, scenario_script

    cues = [Cue(1, "PROMPT", segment=n) for n in (0, 1)]
    scripts = [example_script(), *(scenario_script(name, cue) for name in scenario_names() for cue in cues)]
    for script in scripts:
        for index in range(min(len(script.entries), 30)):
            entry = script.entries[index]
            yield from _sentences(entry.fields)
            if entry.later is not None:
                yield from _sentences(entry.later.fields)


def _sentences(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _sentences(each)
    elif isinstance(value, str) and value.count(" ") >= 2 and "PROMPT" not in value:
        yield value


WATCH = Watch()
"""That of this test run."""
