"""What entries of the Codegen log mean, in the words of all hosts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.runs import Run, RunRef, RunStatus, Step, StepKind
from codegen_api.upstreams.codegen import CodegenUpstream
from codegen_api.upstreams.codegen.answers import entry_of

REF = RunRef("323", "41894")
HOST = CodegenUpstream("https://host.example")

texts = st.text(st.characters(exclude_categories=()), max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.just("message"), inner, max_size=3),
    max_leaves=10,
)
KINDS = ("USER_MESSAGE", "PLAN_EVALUATION", "ACTION", "FINAL_ANSWER", "ERROR", "action", "NEW_KIND", None, 7, "")


def meaning(**fields: Any) -> Step:
    return HOST.step(entry_of(fields, REF))


@pytest.mark.parametrize(
    ("entry", "step"),
    [
        (
            {"message_type": "USER_MESSAGE", "tool_name": "user_input", "observation": {"message": "Say hello"}},
            Step(StepKind.USER, "USER_MESSAGE", "Say hello"),
        ),
        (
            {"message_type": "PLAN_EVALUATION", "thought": "I should", "observation": "not this"},
            Step(StepKind.THOUGHT, "PLAN_EVALUATION", "I should"),
        ),
        (
            {"message_type": "FINAL_ANSWER", "thought": "not this", "observation": "It is done"},
            Step(StepKind.ANSWER, "FINAL_ANSWER", "It is done"),
        ),
        (
            {"message_type": "FINAL_ANSWER", "thought": "It is done"},
            Step(StepKind.ANSWER, "FINAL_ANSWER", "It is done"),
        ),
        ({"message_type": "ERROR", "observation": ["a", 1]}, Step(StepKind.ERROR, "ERROR", '["a",1]')),
        ({"message_type": "ERROR", "observation": {"message": ""}}, Step(StepKind.ERROR, "ERROR", '{"message":""}')),
        ({"message_type": "NEW_KIND", "thought": "hm"}, Step(StepKind.OTHER, "NEW_KIND", "hm")),
        ({}, Step(StepKind.OTHER, None, "")),
        (
            {"message_type": "ACTION", "tool_name": "search", "thought": "Look", "tool_input": {"q": 1}},
            Step(StepKind.ACTION, "ACTION", "Look", "search", {"q": 1}, None, closed=False),
        ),
        (
            {"message_type": " action ", "tool_name": "search", "tool_output": "found"},
            Step(StepKind.ACTION, " action ", "", "search", None, "found"),
        ),
        (
            {"message_type": "ACTION", "tool_name": "search", "observation": "found"},
            Step(StepKind.ACTION, "ACTION", "", "search", None, "found", closed=False),
        ),
        (
            {"message_type": "NEW_KIND", "tool_name": "search", "tool_output": "found"},
            Step(StepKind.ACTION, "NEW_KIND", "", "search", None, "found"),
        ),
        ({"message_type": "ACTION", "tool_output": 3}, Step(StepKind.ACTION, "ACTION", "", "unknown", None, 3)),
    ],
)
def test_an_entry_means_what_the_fields_of_its_kind_say(entry: dict[str, Any], step: Step) -> None:
    assert meaning(**entry) == step


def test_half_a_pair_of_surrogates_is_heard_as_it_is() -> None:
    assert meaning(message_type="FINAL_ANSWER", observation="a\ud800b\0").text == "a\ud800b\0"
    assert meaning(message_type="ACTION", tool_name="t", tool_input={"\udfff": 1}).input == {"\udfff": 1}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "message_type": st.sampled_from(KINDS) | texts,
            "tool_name": texts | values,
            "thought": values,
            "observation": values,
            "tool_input": values,
            "tool_output": values,
            "created_at": values,
        },
    )
    | values
)
def test_every_entry_means_something(item: Any) -> None:
    entry = entry_of(item, REF)
    step = HOST.step(entry)
    assert isinstance(step.kind, StepKind)
    assert isinstance(step.text, str)
    assert (step.tool is not None) >= (step.kind is StepKind.ACTION)
    assert step.closed is not entry.open
    assert entry.answers is (step.kind is StepKind.ANSWER)


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"result": "**42**"}, "**42**"),
        ({"result": ""}, None),
        ({"result": 42}, None),
        ({"result": None}, None),
        ({}, None),
    ],
)
def test_the_answer_of_a_run_is_its_result(fields: dict[str, Any], answer: str | None) -> None:
    assert HOST.answer(Run(REF, RunStatus.COMPLETED, "COMPLETE", fields)) == answer
