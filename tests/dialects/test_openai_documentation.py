"""What is said of OpenAI's API, in the OpenAPI document and in docs/clients.md."""

from codegen_api.dialects.openai import schemas
from codegen_api.dialects.openai.events import STRIDE
from codegen_api.http.openapi import COMMON
from codegen_api.http.web import WAITS
from tests.dialects.documented import chapter, documented, routes_in, undescribed

CLIENTS = chapter("OpenAI's API")


def test_every_route_is_in_the_table_and_no_other() -> None:
    assert sorted(routes_in(CLIENTS)) == sorted(f"{method} {path}" for method, path, _ in documented("openai"))


def test_every_route_is_described_with_its_errors_in_their_shape() -> None:
    found = documented("openai")
    assert undescribed(found) == []
    for method, path, operation in found:
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert operation["operationId"].startswith("openai_")
        assert operation["security"] == [{"HTTPBearer": []}]
        statuses = {int(status) for status in operation["responses"]}
        assert statuses >= set(COMMON)
        for status in (status for status in statuses if status >= 400):
            response = operation["responses"][str(status)]
            error = response["content"]["application/json"]["example"]["error"]
            assert {"message", "type", "code"} <= set(error)  # null is left out in examples
            assert ("Retry-After" in response["headers"]) == (status in WAITS)


def test_each_route_says_which_of_its_own_errors_it_can_meet() -> None:
    asked = {f"{method} {path}": set(operation["responses"]) for method, path, operation in documented("openai")}
    starting = ("POST /v1/responses", "POST /v1/chat/completions")
    for route, statuses in asked.items():
        assert ("402" in statuses) == (route in starting), route
        assert ("501" in statuses) == (route in (*starting, "POST /v1/responses/{response_id}/cancel")), route


def test_what_is_refused_by_name_and_what_is_ignored_is_listed() -> None:
    body = schemas.CreateResponse
    ignored = [
        name for name, each in body.model_fields.items() if each.description == "Has no meaning here, and is ignored."
    ]
    repeated = [name for name, each in body.model_fields.items() if "repeated" in str(each.description)]
    alike = [name for name, each in body.model_fields.items() if each.description == "As `temperature`."]
    for name in [*ignored, *repeated, *alike, *schemas.NOT_OFFERED]:
        assert f"`{name}`" in CLIENTS, name


def test_the_number_told_is_that_of_the_code() -> None:
    assert f"is {STRIDE} times" in CLIENTS
