"""Settings come from the environment and from flags; an invalid one is named and the key never shown."""

import re

import pytest
from pydantic import Secret
from services import KEY

from pneumonia.core.errors import InputError
from pneumonia.serving.settings import Settings


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PNEUMONIA_{name.upper()}", raising=False)
    return monkeypatch


def test_settings_come_from_the_environment_and_flags_override_it(environment: pytest.MonkeyPatch):
    environment.setenv("PNEUMONIA_PORT", "8001")
    environment.setenv("PNEUMONIA_MAX_FILES", "3")
    settings = Settings.read(port=None, model="", host="::1")
    assert (settings.port, settings.model, settings.max_files, settings.host) == (8001, "champion", 3, "::1")
    assert Settings.read(port="8002").port == 8002


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_an_empty_variable_counts_as_unset(environment: pytest.MonkeyPatch, name: str):
    default = Settings.read()
    environment.setenv(f"PNEUMONIA_{name.upper()}", "")  # as Compose passes a variable that nobody set
    assert Settings.read() == default


def test_variables_of_other_commands_are_ignored(environment: pytest.MonkeyPatch):
    environment.setenv("PNEUMONIA_PROMOTER", "Ada")
    assert Settings.read() == Settings()


def test_the_service_is_reachable_from_its_own_machine_only_unless_told_otherwise(environment: pytest.MonkeyPatch):
    assert Settings.read().host == "127.0.0.1" and not Settings.read().api_key.get_secret_value()


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - {"model", "host", "hosts", "api_key"}))
@pytest.mark.parametrize("value", ["0", "-1", "many", "nan", "inf", "1000000"])
def test_an_invalid_setting_is_named_after_where_it_came_from(environment: pytest.MonkeyPatch, name: str, value: str):
    variable = f"PNEUMONIA_{name.upper()}"
    with pytest.raises(InputError) as flagged:
        Settings.read(**{name: value})
    environment.setenv(variable, value)
    with pytest.raises(InputError) as refused:
        Settings.read()
    for source, error in ((f"--{name}", flagged), (variable, refused)):
        assert re.fullmatch(rf"{source} is '{value}'\.\n  Expected: .+\n  Remedy: .+", str(error.value))


def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(environment: pytest.MonkeyPatch):
    environment.setenv("PNEUMONIA_API_KEY", "geheim und lang")
    with pytest.raises(InputError, match="PNEUMONIA_API_KEY is invalid") as refused:
        Settings.read()
    assert "geheim" not in str(refused.value) and refused.value.__suppress_context__


def test_the_key_is_not_shown(environment: pytest.MonkeyPatch):
    environment.setenv("PNEUMONIA_API_KEY", KEY)
    settings = Settings.read()
    assert settings.api_key.get_secret_value() == KEY
    assert KEY not in repr(settings) + str(settings) + settings.model_dump_json() + repr(Settings(api_key=Secret(KEY)))
