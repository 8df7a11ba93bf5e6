"""README and the pages behind it say what is true: their tables are compared with the code, and their commands and
examples are run.
"""

import ast
import inspect
import itertools
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from codegen_api import Settings, build_auth, create_app
from codegen_api.build_parts import DIALECTS, UPSTREAMS
from codegen_api.program import local_hosts, serve
from codegen_api.sandbox.bodies import FaultKind
from codegen_api.sandbox.scenarios import scenario_names
from codegen_api.settings import TERMINAL_VARIABLES, read_settings
from codegen_api.settings.environment import PREFIX, option_prefix
from tests.commands import completed

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SETTINGS, UI, OPERATING = (
    (ROOT / f"docs/{name}.md").read_text() for name in ("settings", "building-a-ui", "operating")
)
DOCUMENTS = sorted(
    path for path in ROOT.rglob("*.md") if not {".venv", "node_modules", ".git"} & set(path.relative_to(ROOT).parts)
)


def section(title: str, document: str = README) -> str:
    return document.split(f"\n## {title}\n")[1].split("\n## ", 1)[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def rows(text: str) -> list[list[str]]:
    """The cells of every table row but the heads."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def shown(default: Any) -> str:
    if default is None or default in ("", ()):
        return "none"
    if isinstance(default, tuple):
        default = ",".join(default)
    if isinstance(default, float):
        default = f"{default:g}"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def routes_of_the_app() -> set[str]:
    app = create_app(Settings(_env_file=None))
    described = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    return described | {"GET /", "GET /console/", "GET /docs", "GET /redoc", "GET /openapi.json"}


def descriptions() -> dict[str, str]:
    """What stands below each setting in the code."""
    (settings,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(settings, ast.ClassDef)
    found = {}
    for setting, below in itertools.pairwise(settings.body):
        if isinstance(setting, ast.AnnAssign) and isinstance(setting.target, ast.Name) and isinstance(below, ast.Expr):
            found[setting.target.id] = " ".join(ast.literal_eval(below.value).split())
    return found


def test_the_settings_table_is_that_of_the_code() -> None:
    said = descriptions()
    expected = [
        [f"`{PREFIX}{name.upper()}`", shown(field.default), said[name]] for name, field in Settings.model_fields.items()
    ]
    assert rows(SETTINGS) == expected, "\n".join(" | ".join(row) for row in expected)


def test_the_environment_example_names_settings_only() -> None:
    named = set(re.findall(rf"^#?\s?({PREFIX}[A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert named
    assert named <= {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}


def test_the_documents_name_settings_only() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {
        f"{option_prefix(name)}{option.upper()}"
        for name in UPSTREAMS
        for option in UPSTREAMS[name].load().known_options
    }
    known |= {f"{name}_FILE" for name in known}
    known |= {f"{PREFIX}{name}" for name in TERMINAL_VARIABLES}
    known |= {"CODEGEN_API_BASE_URL"}  # of the package `codegen`
    for document in DOCUMENTS:
        named = set(re.findall(rf"\b{PREFIX}[A-Z0-9_]*[A-Z]", document.read_text()))
        assert named - known == set(), document


def test_every_dialect_stands_where_they_are_listed() -> None:
    for document in ("README.md", "ARCHITECTURE.md", "docs/clients.md", "docs/operating.md", ".env.example"):
        text = (ROOT / document).read_text()
        assert {name for name in DIALECTS if not re.search(rf"\b{name}\b", text)} == set(), document


def test_the_table_of_dialects_is_that_of_the_code() -> None:
    table = (ROOT / "docs/clients.md").read_text().split("\n| name |")[1].split("\n\n")[0]
    told = {row[0].strip("`"): (tuple(re.findall("`(/[^`]*)`", row[2])), row[3] == "yes") for row in rows(table)}
    assert told == {
        name: (dialect.load().prefixes, dialect.load().conversations)
        for name, dialect in DIALECTS.items()
        if name != "native"
    }


def test_the_endpoints_table_holds_every_route_and_no_other() -> None:
    assert {row[0].strip("`") for row in rows(section("Endpoints", UI))} == routes_of_the_app()


def test_the_contract_holds_every_route_and_no_other() -> None:
    text = (ROOT / "docs/wire.md").read_text().split("\n## Routes\n")[1].split("\n## ")[0]
    assert {route for row in rows(text) for route in re.findall("`([A-Z]+ [^`]+)`", row[0])} == routes_of_the_app()


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if "docs" in path.parts], ids=lambda path: path.name)
def test_the_lines_that_start_it_name_all_settings_that_are_needed(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: dict[str, str] = {}  # what was exported, also by a block before
    for block in blocks(document.read_text(), "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            given = dict(re.findall(rf"{PREFIX}([A-Z_]+)=(\"\S.*?\"|\S+)", line))
            named |= given if line.startswith("export ") else {}
            if not re.search(r"python run_server\.py|\bcodegen-api$", line) or not (named | given):
                continue
            with monkeypatch.context() as patch:
                for name, value in (named | given).items():
                    patch.setenv(PREFIX + name, "x" * 32 if re.search(r"\.\.\.|\$", value) else value.strip('"'))
                settings = read_settings()
            build_auth.require(settings)
            assert not settings.base_url.endswith(f":{settings.port}"), "both listen there"


def test_the_first_minute_is_what_the_server_prints() -> None:
    printed = local_hosts.TRY_IT.format(url="http://127.0.0.1:8000", token="sandbox-alice").splitlines()
    commands = [line.strip() for line in printed if line.startswith("  ")]
    assert blocks(section("The first minute"), "sh")[1].splitlines() == commands


def test_the_options_of_the_front_door_exist() -> None:
    text = section("Ways to start", OPERATING).split("As an ASGI application")[0]
    named = set(re.findall(r"`(--[a-z-]+)", text))
    shown_by_help = serve._parser().format_help()
    assert named
    assert {option for option in named if option not in shown_by_help} == set()


def test_the_programs_and_modules_named_exist() -> None:
    programs = set(re.findall(r"\bpython (\w+\.py)", README + section("Ways to start", OPERATING)))
    assert programs == {"run_server.py", "validate_server.py"}
    assert {name for name in programs if not (ROOT / name).is_file()} == set()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"codegen-api": "codegen_api.front_door:main"}
    for module in ("codegen_api", "codegen_api.sandbox"):
        assert (ROOT / module.replace(".", "/") / "__main__.py").is_file()


def test_the_options_of_the_validator_exist() -> None:
    helped = completed([sys.executable, ROOT / "validate_server.py", "--help"], check=True)
    for option in set(re.findall(r"--[a-z]+", section("Check a running gateway", OPERATING))):
        assert option in helped.stdout


def test_the_coverage_that_is_promised_is_made_sure_of_where_ci_runs_the_tests() -> None:
    promise = re.search(
        r"Branch coverage is (\d+) % for (.*?), and at least (\d+) %", (ROOT / "CONTRIBUTING.md").read_text()
    )
    assert promise is not None
    script = (ROOT / "scripts/test").read_text()
    core = re.findall(r"^core=(.*)$", script, re.MULTILINE)
    named = re.findall(r"codegen_api/(?:\w+/)??(\w+?)(?:/__init__)?(?:\.py|/\*)", " ".join(core))
    assert set(named) == set(re.split(", | and ", promise[2]))
    assert f'--include="$core" --fail-under={promise[1]} ' in script
    assert f'--omit="$core" --fail-under={promise[3]} ' in script
    assert "command: scripts/test}" in (ROOT / ".github/workflows/ci.yml").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    missing = []
    for target in targets:
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            missing.append(target)
    assert missing == []


def anchors(text: str) -> set[str]:
    """Headings, as links name them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_the_reader_shown_is_the_one_that_is_tested() -> None:
    shown_reader = blocks(section("Examples", UI), "javascript")[0]
    assert shown_reader in (ROOT / "examples/follow.js").read_text().replace("export async", "async")
    assert len(shown_reader.splitlines()) <= 26


SANDBOX = OPERATING.split("\n## The sandbox\n")[1]


def first_cells(head: str) -> list[str]:
    """What the first column of the sandbox's table with this head names."""
    table = SANDBOX.split(f"\n| {head} |")[1].split("\n\n")[0]
    return [name for row in rows(table) for name in re.findall("`([^`]+)`", row[0])]


def test_the_sandbox_tables_are_those_of_the_code() -> None:
    assert first_cells("scenario") == scenario_names()
    assert first_cells("kind") == list(get_args(FaultKind))


def test_the_options_of_the_sandbox_are_those_of_the_code() -> None:
    helped = completed([sys.executable, "-m", "codegen_api.sandbox", "--help"], check=True, cwd=ROOT)
    assert set(first_cells("option")) == set(re.findall("--[a-z-]+", helped.stdout)) - {"--help"}
