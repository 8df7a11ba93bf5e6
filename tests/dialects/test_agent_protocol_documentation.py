"""What is said of the Agent Protocol, in the OpenAPI document and in docs/clients.md."""

from tests.dialects.documented import assert_described, chapter, documented, part, routes_in

CLIENTS = chapter("The Agent Protocol")
REFUSED = [
    "after_seconds",
    "extract",
    "index",
    "interrupt_after",
    "interrupt_before",
    "supersteps",
    "ttl",
    "values",
    "webhook",
]
IGNORED = [
    "durability",
    "feedback_keys",
    "include",
    "recurse",
    "refresh_ttl",
    "stream_resumable",
    "stream_subgraphs",
    "xray",
]


def test_every_route_is_in_the_table_or_said_to_be_refused() -> None:
    offered = set()
    for method, path, operation in documented("agent_protocol"):
        if operation["tags"] == ["Agent Protocol: not offered"]:
            assert "crons" in path or path.split("/")[-1] in (
                "copy",
                "state",
                "storage",
                "stream",
                "commands",
                "events",
            )
        else:
            offered.add(f"{method} {path}")
    assert set(routes_in(CLIENTS)) == offered


def test_every_route_is_described_with_its_errors() -> None:
    assert_described(
        documented("agent_protocol"),
        prefix="agent_protocol_",
        security={"HTTPBearer", "ApiKey"},
        shape="AgentProtocolError",
        public=("/info", "/ok"),
    )


def test_what_is_refused_by_name_and_what_is_ignored_is_listed() -> None:
    for names, where in ((REFUSED, part(CLIENTS, "Refused by name")), (IGNORED, part(CLIENTS, "Ignored"))):
        assert {name for name in names if f"`{name}`" not in where} == set()
