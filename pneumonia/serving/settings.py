"""Settings of the service, read from environment variables and flags."""

from typing import Annotated, Self

from pydantic import Field, Secret, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pneumonia.core.errors import InputError

PREFIX = "PNEUMONIA_"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Settings(BaseSettings):
    """How to serve: each field comes from the variable PNEUMONIA_<NAME>, and an empty variable counts as unset.

    Attributes:
        model: champion, challenger, the number of a version, or the path of a .keras file.
        host: address to listen on; 0.0.0.0 for all.
        port: TCP port to listen on.
        hosts: names by which browsers and proxies call the service, separated by commas, with * for any part.
        reload_seconds: between two checks for a new champion.
        max_upload_mb: largest request body, in MiB.
        max_files: most files per request.
        max_in_flight: most requests in progress.
        max_held_mb: largest sum of the bodies of all requests, which are held in memory, in MiB.
        timeout_seconds: from the headers of a request, over its upload, to the end of its answer.
        api_key: required from callers, printable ASCII; empty for none.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    model: Annotated[str, Field(min_length=1)] = "champion"
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    hosts: Annotated[str, Field(pattern=r"^[!-~]*$")] = ""
    reload_seconds: Annotated[float, Field(ge=0.1, le=86400)] = 30
    max_upload_mb: Annotated[int, Field(ge=1, le=1024)] = 32
    max_files: Annotated[int, Field(ge=1, le=64)] = 16
    max_in_flight: Annotated[int, Field(ge=1, le=1024)] = 32
    max_held_mb: Annotated[int, Field(ge=1, le=65536)] = 48
    timeout_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 30
    api_key: Secret[Annotated[str, Field(pattern=r"^[!-~]*$", max_length=256)]] = Secret("")

    @property
    def known_hosts(self) -> list[str]:
        """Return the names that requests may give. By default no name leads to an address of this machine only."""
        default = "" if self.host in LOOPBACK else "*"
        return (self.hosts or default).lower().split(",")

    @classmethod
    def read(cls, **flags: str | None) -> Self:
        """Read the environment; a flag that is neither None nor empty overrides its variable.

        Raises:
            InputError: a value is invalid; the message names its flag or variable, and never repeats the key.
        """
        given = {name: value for name, value in flags.items() if value}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            source = f"--{name}" if name in given else f"{PREFIX}{name.upper()}"
            value = "is invalid" if name == "api_key" else f"is {first['input']!r}"
            raise InputError(f"{source} {value}.", expected=first["msg"], remedy="correct it, or omit it") from None
