"""What is said of the AI SDK's stream, in the OpenAPI document and in docs/clients.md."""

from codegen_api.dialects.ai_sdk.wire import FOLDED, UNFOLDED
from codegen_api.http.openapi import COMMON
from codegen_api.http.web import WAITS
from tests.dialects.ai_sdk import shown
from tests.dialects.documented import chapter, documented, routes_in, undescribed

CLIENTS = chapter("useChat of the AI SDK")


def test_every_route_is_in_the_table_and_no_other() -> None:
    assert sorted(routes_in(CLIENTS)) == sorted(f"{method} {path}" for method, path, _ in documented("ai_sdk"))


def test_every_route_is_described_with_its_errors_which_are_sentences() -> None:
    found = documented("ai_sdk")
    assert undescribed(found) == []
    for method, path, operation in found:
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert operation["operationId"].startswith("ai_sdk_")
        assert operation["security"] == [{"HTTPBearer": []}]
        statuses = {int(status) for status in operation["responses"]}
        assert statuses >= set(COMMON)
        for status in (status for status in statuses if status >= 400):
            response = operation["responses"][str(status)]
            assert set(response["content"]) == {"text/plain"}
            assert response["content"]["text/plain"]["schema"] == {"type": "string"}
            assert response["content"]["text/plain"]["example"].endswith((".", "prompt: Field required"))
            assert ("Retry-After" in response["headers"]) == (status in WAITS)


def test_each_route_says_which_of_its_own_errors_it_can_meet() -> None:
    asked = {f"{method} {path}": set(operation["responses"]) for method, path, operation in documented("ai_sdk")}
    for route, statuses in asked.items():
        assert ("402" in statuses) == (route == "POST /ui/chat"), route
        assert ("204" in statuses) == (route in ("DELETE /ui/chat/{chat_id}", "GET /ui/chat/{chat_id}/stream")), route


def test_the_example_of_a_stream_is_one_that_every_version_of_the_client_takes() -> None:
    asked = {f"{method} {path}": operation for method, path, operation in documented("ai_sdk")}
    for route in ("POST /ui/chat", "GET /ui/chat/{chat_id}/stream"):
        example = asked[route]["responses"]["200"]["content"]["text/event-stream"]["example"]
        message = shown(example)
        assert [part["type"] for part in message.parts] == ["reasoning", "dynamic-tool"]
        assert message.status == "ready"


def test_the_numbers_told_are_those_of_the_code() -> None:
    assert f"more than\n  {UNFOLDED + FOLDED} entries" in CLIENTS
