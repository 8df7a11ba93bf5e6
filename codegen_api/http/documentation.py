"""The OpenAPI document, and pages that show it. Their assets are bundled, so that they work offline."""

import importlib.util
from functools import lru_cache
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from codegen_api.errors import NotFound
from codegen_api.http.web import json_response
from codegen_api.runs import to_json
from codegen_api.worker_thread import in_thread

ASSETS = "/docs/assets"


def install(app: FastAPI) -> None:
    """Serve ``/openapi.json``, ``/docs`` and ``/redoc``. The assets come from the package fastapi-offline."""
    package = importlib.util.find_spec("fastapi_offline")
    assert package is not None  # noqa: S101 - a required dependency
    assert package.origin is not None  # noqa: S101 - not a namespace package
    assets = {path.name: path for path in (Path(package.origin).parent / "static").iterdir()}

    @lru_cache(maxsize=1)
    def document_at(root: str) -> bytes:
        document = app.openapi()  # takes half a second the first time
        return to_json({**document, "servers": [{"url": root}]} if root else document)

    async def openapi(request: Request) -> Response:
        return json_response(await in_thread(document_at, request.scope.get("root_path", "")))

    async def asset(request: Request) -> FileResponse:
        name = request.path_params["name"]
        if name not in assets:
            raise NotFound
        return FileResponse(assets[name], headers={"Cache-Control": "public, max-age=3600"})

    async def swagger_ui(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=app.title,
            swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{ASSETS}/favicon.png",
        )

    async def redoc(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_redoc_html(
            openapi_url=f"{root}/openapi.json",
            title=app.title,
            redoc_js_url=f"{root}{ASSETS}/redoc.standalone.js",
            redoc_favicon_url=f"{root}{ASSETS}/favicon.png",
            with_google_fonts=False,
        )

    app.add_route("/openapi.json", openapi, include_in_schema=False)
    app.add_route(ASSETS + "/{name}", asset, include_in_schema=False)
    app.add_route("/docs", swagger_ui, include_in_schema=False)
    app.add_route("/redoc", redoc, include_in_schema=False)
