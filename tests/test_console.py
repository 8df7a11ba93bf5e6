"""The gateway hands out the console, its files and what they cannot know by themselves. What people do with it is in
``tests/end_to_end/test_console.py``.
"""

import hashlib
import re

import pytest

from codegen_api import create_app
from codegen_api.console import FILES
from codegen_api.settings.environment import SettingsError
from tests.auth.issuer import AUDIENCE
from tests.auth.test_discovery import DOCUMENT, PEOPLE, publishing
from tests.commands import completed
from tests.dialects.site import run, serving, settings
from tests.end_to_end.processes import program
from tests.fakehost import FakeHost

OURS = [path for path in FILES.iterdir() if path.suffix in (".js", ".css", ".html")]
VENDORED = FILES / "vendor"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.wire("index", "root-path")
def test_the_root_leads_a_browser_to_the_console_and_tells_everybody_else_where_things_are() -> None:
    async def main() -> None:
        async with serving(root_path="/agents", title="Mine") as site:
            led = await site.get("/", headers=BROWSER, token=None)
            assert (led.status_code, led.headers["location"]) == (307, "/agents/console/")
            assert "Accept" in led.headers["vary"]
            told = (await site.get("/", token=None)).json()
            assert told["name"] == "Mine"
            assert told["links"]["console"] == "/agents/console/"
            for path in told["links"].values():
                assert (await site.get(path.removeprefix("/agents"))).status_code == 200
            slash = await site.get("/console", token=None)
            assert (slash.status_code, slash.headers["location"]) == (307, "/agents/console/")

    run(main())


@pytest.mark.wire("index")
def test_without_the_console_there_is_nothing_of_it() -> None:
    async def main() -> None:
        async with serving(console=False) as site:
            for path in ("/console", "/console/", "/console/app.js", "/console/config.json"):
                assert (await site.get(path, headers=BROWSER)).json()["code"] == "not_found"
            answer = await site.get("/", headers=BROWSER, token=None)
            assert "console" not in answer.json()["links"]

    run(main())


@pytest.mark.wire("console", "not-stored", "answer-json")
def test_the_page_may_run_no_inline_code_and_load_nothing_from_elsewhere() -> None:
    async def main() -> None:
        async with serving() as site:
            page = await site.get("/console/", token=None)
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert page.headers["cache-control"] == "no-store"
            policy = dict(each.strip().split(" ", 1) for each in page.headers["content-security-policy"].split(";"))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert policy["require-trusted-types-for"] == "'script'"
            assert page.headers["x-content-type-options"] == "nosniff"
            assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|https?://", page.text)

    run(main())


def test_every_file_has_its_type_and_is_sent_again_only_when_it_has_changed() -> None:
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}

    async def main() -> None:
        async with serving() as site:
            for path in FILES.rglob("*.*"):
                if path.suffix == ".html":
                    continue
                name = f"/console/{path.relative_to(FILES).as_posix()}"
                answer = await site.get(name, token=None)
                assert answer.content == path.read_bytes()
                assert answer.headers["content-type"].split(";")[0] == types[path.suffix]
                assert answer.headers["cache-control"] == "no-cache"
                again = await site.get(name, token=None, headers={"If-None-Match": answer.headers["etag"]})
                assert (again.status_code, again.content) == (304, b"")
                other = await site.get(name, token=None, headers={"If-None-Match": '"other"'})
                assert other.status_code == 200
            for name in ("nothing.js", "../__init__.py", "%2e%2e/__init__.py", "vendor/", "vendor"):
                assert (await site.get(f"/console/{name}", token=None)).status_code == 404

    run(main())


def test_the_page_is_told_whose_tokens_the_sandbox_has_and_otherwise_nothing() -> None:
    async def main() -> None:
        for more, tokens in [({}, []), ({"sandbox": True}, ["sandbox-alice", "sandbox-bob"])]:
            async with serving(**more) as site:
                told = (await site.get("/console/config.json", token=None)).json()
                assert told["sandbox_tokens"] == tokens
                assert (told["sign_in"], told["sign_in_unavailable"]) == (None, False)

    run(main())


@pytest.mark.wire("console")
def test_the_page_is_told_where_to_sign_in_and_may_go_there() -> None:
    async def main() -> None:
        async with publishing() as (published, issuer):
            document = f"/realms/people{DOCUMENT}"
            people = {**PEOPLE, "jwt_issuer": issuer.name, "console_client_id": "console"}
            async with serving(FakeHost(), **people) as site:  # which does not say where
                told = (await site.get("/console/config.json", token=None)).json()
                assert (told["sign_in"], told["sign_in_unavailable"]) == (None, True)
                page = await site.get("/console/", token=None)
                assert "connect-src 'self';" in page.headers["content-security-policy"]
            places = {"authorization_endpoint": f"{published.url}/go", "token_endpoint": "http://tokens.example;x:8/t"}
            published.say(document, {"issuer": issuer.name, "jwks_uri": f"{published.url}/certs", **places})
            async with serving(FakeHost(), **people, console_scope="openid api") as site:
                told = (await site.get("/console/config.json", token=None)).json()
                assert told["sign_in"] == {
                    "issuer": issuer.name, "client_id": "console", "scope": "openid api", "audience": AUDIENCE, **places
                }  # fmt: skip
                page = await site.get("/console/", token=None)
                assert "connect-src 'self' http://tokens.example%3Bx:8;" in page.headers["content-security-policy"]
                assert published.asked.count(document) <= 4  # two for keys, and one for each console

    run(main())


def test_a_client_id_of_the_console_needs_an_issuer() -> None:
    with pytest.raises(SettingsError, match="CODEGEN_CONSOLE_CLIENT_ID: it needs `jwt` in CODEGEN_AUTH"):
        create_app(settings(console_client_id="console"))


def test_the_console_is_small_enough_to_be_read() -> None:
    assert len(OURS) > 10
    assert sum(len(path.read_text().splitlines()) for path in OURS) <= 1200


def test_every_file_of_the_console_goes_into_the_package() -> None:
    files = [str(path) for path in FILES.rglob("*") if path.is_file()]
    # what git ignores, the build leaves out
    ignored = completed([program("git"), "check-ignore", *files])
    assert ignored.stdout == ""


def test_what_is_of_others_is_as_it_was_fetched_and_comes_with_its_licence() -> None:
    written = dict(line.split()[::-1] for line in (VENDORED / "SHA256SUMS.txt").read_text().splitlines())
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDORED.glob("*.js")}
    assert there == written
    notice = (VENDORED / "NOTICE.txt").read_text()
    script = (FILES.parents[2] / "scripts/vendor_console").read_text()
    packages = re.findall(r"\w+@[\d.]+", script.split('packages="')[1].split('"')[0])
    assert re.findall(r"^(\w+@[\d.]+)$", notice, re.MULTILINE) == packages
