"""A complete small adapter, for a host of JSON over HTTP without organizations.

The host has ``PUT /runs/{id}`` with ``text`` and ``metadata``, which creates a run or finds it; ``GET /runs/{id}``;
``POST /runs/{id}/texts`` with ``text``, refused with 409 while the run is busy; and ``GET /runs?skip=&limit=`` with
``runs``, newest first, and ``total``. A run has ``id``, ``state``, ``created_at``, ``updated_at``, ``metadata``,
``answer`` and, except in lists, its whole ``log``.
"""

from codegen_api.identity import Credential
from codegen_api.runs import (
    Cursor,
    Json,
    LogEntry,
    LogPage,
    Paging,
    Run,
    RunRef,
    RunStatus,
    Step,
    StepKind,
    from_json,
    to_json,
)
from codegen_api.upstreams import Images, Listing, NewRun, RunFilter, User
from codegen_api.upstreams.host_json import (
    as_list,
    as_object,
    listing_of,
    marked,
    member,
    new_uuid,
    not_offered,
    page_of,
    placeholder,
    refuse,
    rfc3339,
    run_told,
    run_uuid,
    text_in,
    uuid_in,
)
from codegen_api.upstreams.over_http import OneOrganization, user_of

STATES = {"busy": RunStatus.RUNNING, "done": RunStatus.COMPLETED, "broken": RunStatus.FAILED}
KINDS = {"user": StepKind.USER, "tool": StepKind.ACTION, "answer": StepKind.ANSWER, "thought": StepKind.THOUGHT}
UNREADABLE = placeholder(kind="unreadable", text="The gateway could not read this entry.")


def run_of(answer: Json) -> Run:
    found = as_object(answer)
    status = STATES.get(member(found, "state", str), RunStatus.UNKNOWN)
    source = {name: value for name, value in found.items() if name not in ("log", "state", "answer")}
    return run_told(uuid_in(found, "id"), source, status, result=text_in(found, "answer"))


def entry_of(found: Json) -> LogEntry:
    if not isinstance(found, dict):
        return UNREADABLE
    try:
        json = to_json(found)
    except ValueError:  # nested too deeply
        return UNREADABLE
    kind, text, at = text_in(found, "kind"), text_in(found, "text"), rfc3339(found.get("at"))
    return LogEntry(
        json,
        at if isinstance(at, str) else None,
        open=kind == "tool" and found.get("output") is None,
        amendable=kind == "tool",
        said=text if kind == "user" else None,
        answers=kind == "answer",
        id=text_in(found, "id"),
    )


class ToyUpstream(OneOrganization):
    name = "toy"
    page_size = 100
    lags = False
    unreadable = UNREADABLE
    keyed = frozenset({"create"})

    def run_id(self, text: str) -> str:
        return run_uuid(text)

    async def identify(self, credential: Credential) -> User:
        await self.ask(credential, "identify", "GET", "/runs", as_object, {"limit": 1})
        return user_of(credential)

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        refuse(new, "images", "repo_id", "model", "agent_type")
        path = f"/runs/{new_uuid('run', new.key)}"
        body = {"text": new.prompt, "metadata": marked(new.metadata, new.marks)}
        return await self.ask(credential, "create_run", "PUT", path, run_of, body=body)

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        return await self.ask(credential, "get_run", "GET", f"/runs/{self.run_id(ref.id)}", run_of)

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        refuse(only, "source_type", "user_id")

        def read(answer: Json) -> Listing[Run]:
            found = as_object(answer)
            runs, total = as_list(found.get("runs")), member(found, "total", int)
            at_end = not runs or skip + len(runs) >= total
            return listing_of(runs, run_of, Paging(total, None, limit, None), at_end=at_end)

        return await self.ask(credential, "list_runs", "GET", "/runs", read, {"skip": skip, "limit": limit})

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        if images is not None:
            raise not_offered("body", "images")
        path = f"/runs/{self.run_id(ref.id)}/texts"
        return await self.ask(credential, "resume_run", "POST", path, run_of, body={"text": prompt})

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        def read(answer: Json) -> LogPage:
            log = as_list(as_object(answer).get("log"))

            def entries(begin: int, end: int) -> list[LogEntry]:
                return [entry_of(each) for each in log[begin:end]]

            return page_of(run_of(answer), len(log), after, limit, entries, newest_first=newest_first)

        return await self.ask(credential, "read_log", "GET", f"/runs/{self.run_id(ref.id)}", read)

    def step(self, entry: LogEntry) -> Step:
        found = as_object(from_json(entry.json))
        raw_kind, text = text_in(found, "kind"), text_in(found, "text") or ""
        kind = KINDS.get(raw_kind or "", StepKind.OTHER)
        if kind is not StepKind.ACTION:
            return Step(kind, raw_kind, text)
        tool = text_in(found, "tool") or "tool"
        return Step(kind, raw_kind, text, tool, found.get("input"), found.get("output"), not entry.open)
