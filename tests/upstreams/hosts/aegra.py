"""Aegra: LangGraph's API on PostgreSQL, with the graph ``agent``. Its database lives as long as the host does."""

import json
from collections.abc import Mapping

from tests.stores.postgres import server
from tests.upstreams.hosts.langgraph import GRAPH
from tests.upstreams.hosts.running import RealHost


class Aegra(RealHost):
    name = "aegra"
    program = "aegra/bin/python"

    def prepare(self) -> None:
        postgres = self.held.enter_context(server())
        postgres.ask("CREATE DATABASE aegra TEMPLATE template0")
        self.database = postgres.url("aegra")
        (self.directory / "aegra.json").write_text(json.dumps({"graphs": {"agent": f"{GRAPH}:graph"}}))

    def command(self) -> list[str]:
        return [str(self.found()), "-m", "uvicorn", "aegra_api.main:app", "--port", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return {
            "AEGRA_CONFIG": str(self.directory / "aegra.json"),
            "DATABASE_URL": self.database,
            "MODEL_URL": self.model.url,
            "REDIS_BROKER_ENABLED": "false",
        }
