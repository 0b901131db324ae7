"""Settings: what is refused, and that the message says what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config import Settings, WindowSettings, load_settings, settings_from_dict
from model.errors import UserError


def refusal(path: str | None = None, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as caught:
        load_settings(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def settings_file(folder: Path, text: str) -> str:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults() -> None:
    assert load_settings() == Settings()
    settings = Settings()
    assert (settings.encoder.handle, settings.window.max_tokens, settings.window.context) == ("minilm-l6", 512, 2)
    assert settings.data.splits == {"train": 0.8, "dev": 0.1, "test": 0.1}


def test_file_and_overrides(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "window: {max_tokens: 256, context: 1}\ntraining:\n  epochs: 5\n")
    settings = load_settings(path, ["training.epochs=2", "data.labels=[a, b]", "encoder.handle=/models/x=y"])
    assert settings.window == WindowSettings(max_tokens=256, context=1)
    assert settings.training.epochs == 2
    assert settings.data.labels == ("a", "b")
    assert settings.encoder.handle == "/models/x=y"
    assert settings.window.model_fields_set == {"max_tokens", "context"}


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_a_file_without_settings_gives_the_defaults(tmp_path: Path, text: str) -> None:
    assert load_settings(settings_file(tmp_path, text)) == Settings()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("window.max_tokens=7", ("window.max_tokens", "7", "greater than or equal to 8")),
        ("window.max_tokens=many", ("window.max_tokens", "'many'", "integer")),
        ("window.max_tokens=12.5", ("window.max_tokens", "12.5", "integer")),
        ("window.context=-1", ("window.context", "-1", "greater than or equal to 0")),
        ("window.segment_ids=ones", ("window.segment_ids", "'ones'", "'zeros' or 'alternating'")),
        ("training.learning_rate=0", ("training.learning_rate", "0", "greater than 0")),
        ("training.learning_rate=.nan", ("training.learning_rate", "nan", "finite")),
        ("training.warmup=1", ("training.warmup", "1", "less than 1")),
        ("training.epochs=0", ("training.epochs", "0", "greater than or equal to 1")),
        ("training.seed=-3", ("training.seed", "-3", "greater than or equal to 0")),
        ("model.dropout=1.0", ("model.dropout", "1.0", "less than 1")),
        ("data.sample=0", ("data.sample", "0", "greater than 0")),
        ("data.splits={train: 0.5, dev: 0.4}", ("data.splits", "0.5", "1.0 in all")),
        ("data.splits={dev: 0.5, test: 0.5}", ("data.splits", "`train`")),
        ("data.splits={train: 1.5, dev: -0.5}", ("data.splits", "-0.5", "positive")),
        ("data.splits={train: 0.5, tune: 0.5}", ("data.splits", "tune", "'train', 'dev' or 'test'")),
        ("encoder.layers=0", ("encoder.layers", "0", "greater than or equal to 1")),
        ("encoder.handle=[a]", ("encoder.handle", "['a']", "string")),
    ],
)
def test_values_that_are_not_allowed(override: str, words: tuple[str, ...]) -> None:
    message = refusal(overrides=(override,))
    assert message.startswith("--set: ")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("window.max_token=9", ("there is no setting window.max_token", "max_tokens, context, segment_ids")),
        ("windows.context=9", ("there is no setting windows", "encoder, window, data, model, training")),
        ("training.epochs.more=9", ("there is no setting training.epochs.more", "learning_rate")),
    ],
)
def test_unknown_keys(override: str, words: tuple[str, ...]) -> None:
    message = refusal(overrides=(override,))
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("override", ["epochs=2", "training.epochs", "training.=2", ".epochs=2", "", "=2"])
def test_overrides_of_another_form(override: str) -> None:
    message = refusal(overrides=(override,))
    assert f"--set {override}" in message
    assert "SECTION.KEY=VALUE" in message


def test_override_that_is_no_yaml() -> None:
    message = refusal(overrides=("data.labels=[a, b",))
    assert "--set data.labels=[a, b" in message and "'[a, b'" in message


def test_a_file_names_itself(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "training: {epochs: three}\n")
    assert refusal(path).startswith(f"{path}: training.epochs is 'three': ")
    path = settings_file(tmp_path, "trainer: {epochs: 3}\n")
    assert refusal(path).startswith(f"{path}: there is no setting trainer; known here: encoder, window")


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.yaml")
    assert absent in refusal(absent) and "give a YAML file" in refusal(absent)
    assert str(tmp_path) in refusal(str(tmp_path))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert str(binary) in refusal(str(binary))


@pytest.mark.parametrize("text", ["training: [1, 2\n", "a: b: c\n", "\tx: 1\n"])
def test_not_yaml(tmp_path: Path, text: str) -> None:
    path = settings_file(tmp_path, text)
    assert refusal(path).startswith(f"{path}: not YAML: ")


@pytest.mark.parametrize(("text", "kind"), [("- a\n", "list"), ("words\n", "str"), ("7\n", "int")])
def test_yaml_of_another_shape(tmp_path: Path, text: str, kind: str) -> None:
    path = settings_file(tmp_path, text)
    message = refusal(path)
    assert f"{path}: holds a {kind}" in message and "mapping" in message


def test_a_section_that_is_no_mapping(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "training: fast\n")
    assert f"{path}: training is 'fast'" in refusal(path)
    assert f"{path}: training is 'fast'; give a mapping" in refusal(path, ("training.epochs=2",))


def test_an_empty_section_beside_an_override(tmp_path: Path) -> None:
    """`training:` with its keys commented out."""
    path = settings_file(tmp_path, "training:\n  # epochs: 3\n")
    assert load_settings(path).training.epochs == 3
    assert load_settings(path, ["training.epochs=2"]).training.epochs == 2


def test_settings_are_frozen_and_survive_json() -> None:
    settings = load_settings(None, ["data.labels=[b, a]", "window.segment_ids=alternating"])
    assert settings_from_dict(settings.model_dump(mode="json"), origin="tests") == settings
    with pytest.raises(ValueError, match="frozen"):
        settings.training.epochs = 9
