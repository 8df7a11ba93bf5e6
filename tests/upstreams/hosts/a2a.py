"""A server made of A2A's SDK; its tasks are in memory. Its executor is in ``agents``."""

from collections.abc import Mapping

from tests.upstreams.hosts.running import RealHost


class A2A(RealHost):
    name = "a2a"
    program = "a2a/bin/python"
    health = "/.well-known/agent-card.json"
    keeps = False

    def command(self) -> list[str]:
        return [str(self.found()), "-m", "tests.upstreams.hosts.agents.a2a_server", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return {"MODEL_URL": self.model.url}
