"""A sandbox under test: in process, on a clock that stands still until it is told to move."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx

from codegen_api.sandbox import create_sandbox

ALICE = "sandbox-alice"
BOB = "sandbox-bob"
RUNS = "/v1/organizations/323/agent/run"


@dataclass
class Time:
    """Both clocks of a sandbox; they move together."""

    passed: float = 0.0

    def clock(self) -> float:
        return 1000.0 + self.passed

    def wall(self) -> float:
        return 1_800_000_000.25 + self.passed

    def advance(self, seconds: float) -> None:
        self.passed += seconds


@dataclass
class Host:
    """A client's view of a sandbox. Limits are off unless a test is about them."""

    options: dict[str, Any] = field(default_factory=dict)
    time: Time = field(default_factory=Time)

    def __post_init__(self) -> None:
        options = {"limits": "off", "clock": self.time.clock, "wall": self.time.wall, **self.options}
        self.app = create_sandbox(**options)

    def ask(self, method: str, path: str, token: str | None = ALICE, **more: Any) -> httpx.Response:
        headers = {**({"authorization": f"Bearer {token}"} if token else {}), **more.pop("headers", {})}

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://sandbox", timeout=5) as client:
                return await client.request(method, path, headers=headers, **more)

        return asyncio.run(send())

    def get(self, path: str, **more: Any) -> Any:
        answer = self.ask("GET", path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any, **more: Any) -> Any:
        answer = self.ask("POST", path, json=body, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def create(self, scenario: str | None = None, prompt: str = "Say hello", **metadata: Any) -> int:
        if scenario:
            metadata["scenario"] = scenario
        return int(self.post(RUNS, {"prompt": prompt, "metadata": metadata or None})["id"])

    def run(self, run_id: int) -> Any:
        return self.get(f"{RUNS}/{run_id}")

    def page(self, run_id: int, **params: Any) -> Any:
        return self.get(f"/v1/alpha/organizations/323/agent/run/{run_id}/logs", params=params)

    def log(self, run_id: int) -> list[Any]:
        """The whole log."""
        entries: list[Any] = []
        while True:
            page = self.page(run_id, skip=len(entries))["logs"]
            entries += page
            if len(page) < 100:
                return entries

    def resume(self, run_id: int, prompt: str = "Go on") -> Any:
        return self.post(f"{RUNS}/resume", {"agent_run_id": run_id, "prompt": prompt})

    def ban(self, run_id: int) -> Any:
        return self.post(f"{RUNS}/ban", {"agent_run_id": run_id})

    def arm(self, kind: str, **more: Any) -> Any:
        return self.post("/_sandbox/faults", {"kind": kind, **more}, token=None)
