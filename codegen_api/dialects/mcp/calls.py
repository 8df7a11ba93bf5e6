"""A call, what a tool is, and what comes of it. It decides nothing about runs."""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from codegen_api.dialects.mcp.rpc import RpcRequest, as_rpc_error
from codegen_api.errors import GatewayError, InsufficientScope, NotAuthenticated
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.parts import Parts
from codegen_api.runs import Json, to_json
from codegen_api.telemetry import note
from codegen_api.web import as_gateway_error

Result = Mapping[str, Json]


class Progressed(NamedTuple):
    """Something has come, for who watches. ``progress`` grows."""

    progress: int
    message: str


Coming = AsyncGenerator[Progressed | Result | None, None]
"""What comes while a result is waited for (None is a sign of life), and the result last."""

Outcome = Result | Coming


@dataclass(frozen=True, slots=True)
class McpCall:
    """A request and who makes it. ``wanted`` is the organization that they name."""

    request: RpcRequest
    caller: Caller
    wanted: str | None
    parts: Parts

    @property
    def gateway(self) -> Gateway:
        return self.parts.gateway

    async def organization(self) -> str:
        return await self.gateway.accounts.organization(self.caller, self.wanted)

    def require(self, scope: str) -> None:
        if not self.caller.may(scope):
            raise InsufficientScope.lacking(scope)


@dataclass(frozen=True)
class Tool:
    """What a model can call: a function whose docstring is the description, and whose keyword-only parameters are the
    arguments. ``scope`` is what the caller needs, and ``hints`` are for the host.
    """

    run: Callable[..., Awaitable[Outcome]]
    scope: str
    hints: Result

    @property
    def name(self) -> str:
        return self.run.__name__

    @cached_property
    def arguments(self) -> type[BaseModel]:
        fields: Any = {
            each.name: (each.annotation, ... if each.default is each.empty else each.default)
            for each in inspect.signature(self.run).parameters.values()
            if each.kind is each.KEYWORD_ONLY
        }
        return create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)

    @cached_property
    def described(self) -> Result:
        schema = self.arguments.model_json_schema()
        for each in (schema, *schema.get("properties", {}).values()):
            del each["title"]  # it only repeats the name, and stands in a model's context
        return {
            "name": self.name,
            "title": self.name.replace("_", " ").capitalize(),
            "description": " ".join((self.run.__doc__ or "").split()),
            "inputSchema": schema,
            "annotations": self.hints,
        }

    async def called(self, call: McpCall, given: Result) -> Outcome:
        """The model is told what cannot be done; that the caller may not is for who asks for it."""
        call.require(self.scope)
        try:
            arguments = self.arguments.model_validate(given)
        except ValidationError as error:
            places = [{**each, "loc": ("arguments", *each["loc"])} for each in error.errors()]
            return failed(as_gateway_error(RequestValidationError(places)))
        try:
            return await self.run(call, **dict(arguments))
        except (NotAuthenticated, InsufficientScope):
            raise
        except GatewayError as error:
            return failed(error)


def told(said: Result, *, is_error: bool = False) -> Result:
    """The result of a tool: for programs, and in the same words for models."""
    content: Json = [{"type": "text", "text": to_json(said).decode()}]
    return {"content": content, "structuredContent": said, **({"isError": True} if is_error else {})}


def failed(error: GatewayError) -> Result:
    """The result of a tool that could not do what it was asked for."""
    note(error.code, error.root_reason)
    failure = as_rpc_error(error)
    choices = failure.data["details"]
    words = f"{failure.message} {to_json(choices).decode()}" if choices else failure.message
    return {"content": [{"type": "text", "text": words}], "structuredContent": failure.data, "isError": True}
