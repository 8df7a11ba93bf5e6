"""``langgraph dev`` with the graph ``agent``; what it stores is in files in ``directory``."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from tests.end_to_end.processes import eventually
from tests.upstreams.hosts.running import RealHost

GRAPH = Path(__file__).parent / "agents" / "graph.py"


class LangGraph(RealHost):
    name = "langgraph"
    program = "langgraph/bin/langgraph"
    health = "/ok"

    def prepare(self) -> None:
        settings = {"dependencies": ["."], "graphs": {"agent": f"{GRAPH}:graph"}}
        (self.directory / "langgraph.json").write_text(json.dumps(settings))

    def command(self) -> list[str]:
        alone = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "10"]
        return [str(self.found()), "dev", "--host", "127.0.0.1", "--port", str(self.port), *alone]

    def environment(self) -> Mapping[str, str]:
        return {"MODEL_URL": self.model.url, "LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1"}

    def stored(self) -> None:
        # it writes everything to its files every few seconds
        began = time.time()
        files = self.directory / ".langgraph_api"
        eventually(lambda: all(file.stat().st_mtime > began for file in files.glob("*.pckl")))
