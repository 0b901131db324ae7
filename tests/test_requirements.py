"""A test that lacks what it needs is skipped, or fails where SEPLINE_REQUIRE names that."""

from __future__ import annotations

import pytest
from support.requirements import CAPABILITIES, ENGINES, required, skip_unless_required


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", set()),
        ("jax", {"jax"}),
        (" jax, minilm,", {"jax", "minilm"}),
        ("engines,jax", {*ENGINES, "jax"}),
        ("all", set(CAPABILITIES)),
    ],
)
def test_what_is_required(monkeypatch: pytest.MonkeyPatch, value: str, expected: set[str]) -> None:
    monkeypatch.setenv("SEPLINE_REQUIRE", value)
    assert required() == expected


def test_a_wrong_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPLINE_REQUIRE", "jaxx")
    with pytest.raises(pytest.UsageError, match="there is no 'jaxx'; known are all, engines, airflow"):
        required()


def test_a_required_capability_fails_and_another_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPLINE_REQUIRE", "jax")
    with pytest.raises(pytest.fail.Exception, match="SEPLINE_REQUIRE names jax: it is missing"):
        skip_unless_required("jax", "it is missing")
    with pytest.raises(pytest.skip.Exception, match=r"^no Java$"):
        skip_unless_required("flink", "no Java")
