"""Every rule of docs/wire.md is claimed by a test, and every claim has its rule.

A test claims rules with ``@pytest.mark.wire("id", ...)``. The claims are read from the source, so that a test counts
that is skipped here because some program is missing.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
CONTRACT = (TESTS.parent / "docs/wire.md").read_text()
RULES = re.findall(r"^- `([^`]+)` ", CONTRACT, re.MULTILINE)


def claims(source: str) -> Iterator[str]:
    """The ids in every ``pytest.mark.wire(...)``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.wire":
            for argument in node.args:
                assert isinstance(argument, ast.Constant), f"line {node.lineno}: a claim must be a literal to be found"
                assert isinstance(argument.value, str)
                yield argument.value


@cache
def claimed() -> dict[str, str]:
    """Which ids are claimed, by where."""
    return {
        f"{path.relative_to(TESTS)}: {claim}": claim
        for path in sorted(TESTS.rglob("*.py"))
        for claim in claims(path.read_text())
    }


def test_every_rule_has_an_id_of_its_own() -> None:
    assert len(RULES) > 50
    assert [rule for rule, times in Counter(RULES).items() if times > 1] == []
    assert [rule for rule in RULES if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule)] == []


def test_every_bullet_of_the_contract_is_a_rule() -> None:
    assert len(re.findall("^- ", CONTRACT, re.MULTILINE)) == len(RULES)


def test_every_rule_is_claimed_by_a_test() -> None:
    assert sorted(set(RULES) - set(claimed().values())) == []


def test_every_claim_has_a_rule() -> None:
    assert sorted(where for where, claim in claimed().items() if claim not in RULES) == []


def test_claims_are_found_on_functions_and_on_modules() -> None:
    source = """
import pytest
pytestmark = pytest.mark.wire("one")
@pytest.mark.wire("two", "three")
def test_it(): ...
"""
    assert sorted(claims(source)) == ["one", "three", "two"]
