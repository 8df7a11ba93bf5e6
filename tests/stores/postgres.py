"""A PostgreSQL server of our own, for as long as the tests run, and fresh databases in it."""

import asyncio
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from codegen_api.stores.sql import SqlStore
from tests.leaks import WATCH

STARTING = 60.0


def binary(name: str) -> str:
    """Where a program of the server is. Without it tests are skipped, but fail where everything has to be there."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: -float(path.parts[-3]))
    found = shutil.which(name) or next(map(str, installed), None)
    if found is None:
        reason = f"{name} is neither on PATH nor in /usr/lib/postgresql: apt-get install postgresql"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@dataclass
class Postgres:
    """A server that listens on a socket in ``directory`` and nowhere else. It believes whoever comes."""

    directory: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self.directory}"

    def ask(self, statement: str, name: str = "postgres") -> Any:
        """What it answers, outside any transaction."""

        async def main() -> Any:
            connection = await asyncpg.connect(self.url(name), timeout=STARTING)
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()

        return asyncio.run(main())

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """The URL of a new database, which is there for as long as this lasts."""
        name = f"test_{next(self.numbers)}"
        self.ask(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            self.ask(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def server(*, languages: bool = True) -> Iterator[Postgres]:
    """A server with a database ``migrated``, whose tables are those of this version. ``languages``: it knows some."""
    initdb, postgres = binary("initdb"), binary("postgres")
    # it refuses to run as root; its package has made a user for it
    as_root: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        directory = Path(name)
        if as_root:
            user = pwd.getpwnam("postgres")
            os.chown(directory, user.pw_uid, user.pw_gid)
        data = directory / "data"
        subprocess.run(
            [initdb, "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"],
            check=True,
            capture_output=True,
            timeout=STARTING,
            cwd=directory,
            **as_root,
        )
        fast = [f"-c{setting}=off" for setting in ("fsync", "full_page_writes", "synchronous_commit")]
        command = [postgres, "-D", str(data), "-k", str(directory), "-clisten_addresses=", *fast]
        with (
            tempfile.TemporaryFile() as log,
            subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, **as_root) as process,
        ):
            try:
                found = Postgres(directory)
                _wait_for(found, process)
                # one that would sort by the rules of a language, if it were left to itself
                icu = (
                    "LOCALE_PROVIDER icu ICU_LOCALE 'en'"
                    if languages and int(found.ask("SHOW server_version_num")) >= 150_000
                    else ""
                )
                found.ask(f"CREATE DATABASE migrated TEMPLATE template0 {icu}")
                asyncio.run(_migrate(found.url("migrated")))
                yield found
            finally:
                process.send_signal(signal.SIGINT)  # it waits for nobody then
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                log.seek(0)
                WATCH.log("log of PostgreSQL", log.read().decode())


def _wait_for(found: Postgres, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTING
    while True:
        try:
            found.ask("SELECT 1")
            return
        except (OSError, asyncpg.PostgresError):
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline
            time.sleep(0.05)


async def _migrate(url: str) -> None:
    store = SqlStore(url)
    await store.open()
    await store.aclose()
