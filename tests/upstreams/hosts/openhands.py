"""OpenHands' agent server. Its conversations are in files in ``directory``; the agent works in ``project``.

A shell command wants confirmation if the model calls it a risk.
"""

from collections.abc import Mapping
from typing import Any

from tests.upstreams.hosts.running import RealHost


class OpenHands(RealHost):
    name = "openhands"
    program = "openhands/bin/python"
    token = "openhands-key-of-tests"

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Session-API-Key": self.token}

    @property
    def conversation(self) -> dict[str, Any]:
        """The body of ``POST /api/conversations``, without the first message."""
        llm = {"model": "openai/fake", "base_url": f"{self.model.url}/v1", "api_key": "none", "usage_id": "agent"}
        agent = {"kind": "Agent", "llm": llm, "tools": [{"name": "terminal"}]}
        return {
            "workspace": {"kind": "LocalWorkspace", "working_dir": str(self.project)},
            "agent": agent,
            "security_analyzer": {"kind": "LLMSecurityAnalyzer"},
            "confirmation_policy": {"kind": "ConfirmRisky"},
        }

    def prepare(self) -> None:
        self.project = self.directory / "project"
        self.project.mkdir()

    def command(self) -> list[str]:
        return [str(self.found()), "-m", "openhands.agent_server", "--host", "127.0.0.1", "--port", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it looks for prices on the Internet
            "OH_ENABLE_VSCODE": "false",
            "OH_PRELOAD_TOOLS": "false",
            "SESSION_API_KEY": self.token,
        }
