"""Settings of the service, read from the environment."""

import os
from typing import Annotated, Self

from pydantic import Field, Secret, ValidationError

from pneumonia.core.errors import InputError
from pneumonia.core.params import Section


class Settings(Section):
    """How to serve, each from the environment variable PNEUMONIA_ and its name in capitals.

    Attributes:
        model: champion, challenger, the number of a version, or path of a .keras file.
        host: address to listen at; 0.0.0.0 for all.
        port: to listen at.
        reload_seconds: between two looks whether `model` stands for another version.
        max_upload_mb: of the body of a request, in units of 2**20 bytes.
        max_files: of a request.
        max_in_flight: requests at a time; what they uploaded is held in memory.
        timeout_seconds: from the headers of a request, over its upload, to the end of its answer.
        api_key: that callers have to know, printable ASCII; empty for none.
    """

    model: Annotated[str, Field(min_length=1)] = "champion"
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    reload_seconds: Annotated[float, Field(ge=0.1, le=86400)] = 30
    max_upload_mb: Annotated[int, Field(ge=1, le=1024)] = 32
    max_files: Annotated[int, Field(ge=1, le=64)] = 16
    max_in_flight: Annotated[int, Field(ge=1, le=1024)] = 64
    timeout_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 30
    api_key: Secret[Annotated[str, Field(pattern=r"^[!-~]*$", max_length=256)]] = Secret("")

    @classmethod
    def read(cls, **given: str | None) -> Self:
        """Read the environment; what is `given` and not None goes before, what is empty is not set.

        Raises:
            InputError: one of them cannot be used.
        """
        found = {name: os.environ.get(f"PNEUMONIA_{name.upper()}") for name in cls.model_fields}
        found = {name: value for name, value in (found | {k: v for k, v in given.items() if v}).items() if value}
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            what = f"--{name}" if given.get(name) else f"PNEUMONIA_{name.upper()}"
            value = "cannot be used" if name == "api_key" else f"is {found[name]!r}"
            raise InputError(f"{what} {value}.", expected=first["msg"], remedy="correct it, or leave it out") from None
