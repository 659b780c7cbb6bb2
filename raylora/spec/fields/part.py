"""What every part of a configuration shares: frozen, closed models and a few bounded numbers.

A field's docstring is its one description: ``--help``, the JSON schema and docs/configuration.md
are made from it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

from raylora.spec.text.secrets import has_secret


class Part(BaseModel):
    """A frozen part of a configuration that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
        hide_input_in_errors=True,
    )


def _refuse_bool(value: Any) -> Any:
    """Stop `lora_r: true` from being read as 1."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def _refuse_secret(address: str) -> str:
    """Stop a password from getting into records, logs and MLflow."""
    if has_secret(address):
        raise PydanticCustomError(
            "secret",
            "the address carries a password or token; take it out and set it in the environment "
            "(AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_PASSWORD, or the whole address as MLFLOW_TRACKING_URI)",
        )
    return address


SEEDS = 2**32
"""Seeds are below it."""

Number = BeforeValidator(_refuse_bool)
"""Put last on a number, so that true and false are not read as 1 and 0."""

Flag = Annotated[bool, Strict()]
"""True or false, and no other word for them: `yes` is text, as it is to every reader of YAML 1.2."""

PositiveInt = Annotated[int, Field(ge=1), Number]
NonNegativeInt = Annotated[int, Field(ge=0), Number]
Seed = Annotated[int, Field(ge=0, lt=SEEDS), Number]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0), Number]
PositiveFloat = Annotated[float, Field(gt=0.0), Number]
NonNegativeFloat = Annotated[float, Field(ge=0.0), Number]
Text = Annotated[str, Field(min_length=1)]
Address = Annotated[str, Field(min_length=1), AfterValidator(_refuse_secret)]
