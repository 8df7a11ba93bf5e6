"""The texts by which an item is found, at paths as LangGraph has them."""

import pytest

from codegen_api.conversations.semantic_search import texts_at
from codegen_api.runs import Json

VALUE: Json = {
    "text": "tea",
    "price": 3,
    "hot": True,
    "none": None,
    "blank": "  ",
    "notes": [{"text": "one", "by": {"name": "ann"}}, {"text": "two"}, "three"],
    "from": {"place": "Uji", "year": 2024},
}
PATHS = {
    "text": ["tea"],
    "price": ["3"],
    "hot": ["true"],
    "none": [],
    "blank": [],
    "missing": [],
    "text.deeper": [],
    "from.place": ["Uji"],
    "from": ['{"place": "Uji", "year": 2024}'],
    "from.*": ["Uji", "2024"],
    "{text,from.place,missing}": ["tea", "Uji"],
    "notes[*].text": ["one", "two"],
    "notes[*].by.name": ["ann"],
    "notes[0].text": ["one"],
    "notes[-1]": ["three"],
    "notes[3]": [],
    "notes[-4]": [],
    "notes[x]": [],
    "notes[": [],
    "text[0]": [],
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_leads_to_its_texts_and_to_nothing_where_it_does_not_fit(path: str) -> None:
    assert list(texts_at(VALUE, [path])) == PATHS[path]


def test_the_whole_is_found_by_itself_unless_nothing_is_to_be() -> None:
    assert (
        list(texts_at({"b": "é", "a": 1}, None)) == list(texts_at({"b": "é", "a": 1}, ["$"])) == ['{"a": 1, "b": "é"}']
    )
    assert list(texts_at(VALUE, ())) == []
