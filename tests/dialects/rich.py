"""A host whose answers have everything in them that a host's answers can have."""

import re
from typing import Any

from codegen_api.errors import Rejected
from codegen_api.runs import Run
from codegen_api.telemetry import Observation
from codegen_api.upstreams import NewRun, RunFilter, User
from tests.fakehost import FakeHost


class RichHost(FakeHost):
    """Remembers what it was asked for, says what was seen of it, and gives fields that nobody knows."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.latency = 0
        self.seen: Observation | None = None
        self.created: list[NewRun] = []
        self.resumed: list[tuple[str, tuple[str, ...] | None]] = []
        self.filters: list[RunFilter] = []
        self.unexpected: Exception | None = None

    @property
    def observation(self) -> Observation | None:
        return self.seen

    def organization_id(self, text: str) -> str:
        return _identifier(text)

    def run_id(self, text: str) -> str:
        return _identifier(text)

    async def identify(self, credential: Any) -> User:
        user = await super().identify(credential)
        return User(user.id, {"id": int(user.id), "email": "a@example.com", "unheard_of": {"deep": [1, None]}})

    async def create_run(self, credential: Any, organization: str, new: NewRun) -> Run:
        self.created.append(new)
        return await super().create_run(credential, organization, new)

    async def resume_run(self, credential: Any, ref: Any, prompt: str, images: Any, *, key: str | None = None) -> Run:
        self.resumed.append((prompt, images))
        return await super().resume_run(credential, ref, prompt, images)

    async def list_runs(self, credential: Any, organization: str, skip: int, limit: int, only: RunFilter) -> Any:
        self.filters.append(only)
        return await super().list_runs(credential, organization, skip, limit, only)

    async def get_run(self, credential: Any, ref: Any) -> Run:
        if self.unexpected is not None:
            raise self.unexpected
        return await super().get_run(credential, ref)


def _identifier(text: str) -> str:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise Rejected
    return str(int(text))


class TextHost(RichHost):
    """Its ids may be any text; that of each run begins with ``id``."""

    def __init__(self, id: str = "ses_dd9e4ff29ffexjBpmvR94YVN0G", **more: Any) -> None:  # noqa: A002
        super().__init__(**more)
        self._id = id

    def organization_id(self, text: str) -> str:
        return text

    def run_id(self, text: str) -> str:
        return text

    async def create_run(self, credential: Any, organization: str, new: NewRun) -> Run:
        await self._called("create", credential)
        self.created.append(new)
        hosted = self.add(self._id + "-" * len(self.runs), marks=new.marks)
        hosted.append(prompt=new.prompt)
        return self._run(hosted)


def unstoppable() -> Any:
    """A host without the methods that make it one that can stop runs."""
    host = FakeHost()

    class Only:
        def __getattr__(self, name: str) -> Any:
            if name in ("cancel_run", "uncancel_run"):
                raise AttributeError(name)
            return getattr(host, name)

        def __setattr__(self, name: str, value: Any) -> None:
            setattr(host, name, value)

    return Only()
