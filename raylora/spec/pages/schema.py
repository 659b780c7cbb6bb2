"""The JSON schemas of a run and of a sweep leave, for editors that complete and check YAML; `raylora schema` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from raylora.spec.fields.run import RunFields
from raylora.spec.fields.sweep import SweepFields
from raylora.spec.reading.method_names import METHODS
from raylora.spec.reading.other_tools import DATASET_ALIASES, RUN_ALIASES, Alias

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the schema in JSON Schema draft 2020-12.

    It knows every field with description and default, refuses unknown keys, and marks other tools' keys as
    deprecated. Rules between fields are not in it: `raylora validate` checks them.
    """
    schema = RunFields.model_json_schema(schema_generator=_Untitled)
    _add_aliases(schema["$defs"]["DatasetSpec"]["properties"], DATASET_ALIASES)
    about = {"title": "raylora run", "description": "One fine-tuning run; see docs/configuration.md."}
    return {"$schema": _DRAFT, **_as_written(schema), **about}


def sweep_json_schema() -> dict[str, Any]:
    """Return the schema of a sweep's file; `raylora schema sweep` prints it."""
    schema = SweepFields.model_json_schema(schema_generator=_Untitled)
    _as_written(schema["$defs"]["RunFields"])
    _add_aliases(schema["$defs"]["DatasetSpec"]["properties"], DATASET_ALIASES)
    run = schema["properties"]["run"]
    run["anyOf"] = [{"type": "string", "minLength": 1}, {"$ref": run.pop("$ref")}]
    knobs = schema["properties"]["space"]
    knobs["additionalProperties"] = {"anyOf": [*knobs["additionalProperties"]["anyOf"], {"type": "null"}]}
    for name, prop in schema["properties"].items():
        prop["description"] = SweepFields.model_fields[name].description
    about = {"title": "raylora sweep", "description": "One sweep over a run's fields; see docs/sweeps.md."}
    return {"$schema": _DRAFT, **schema, **about}


def _as_written(schema: dict[str, Any]) -> dict[str, Any]:
    """Let a run's schema take what its file may say: other tools' keys, names of methods, and groups without a value."""
    for name, prop in schema["properties"].items():
        prop["description"] = RunFields.model_fields[name].description
        if "$ref" in prop:
            # A group whose fields are all commented out reads as null.
            prop["anyOf"] = [{"$ref": prop.pop("$ref")}, {"type": "null"}]
    _add_aliases(schema["properties"], RUN_ALIASES)
    schema["properties"]["adapter"]["enum"] += METHODS
    schema["allOf"] = [{"anyOf": [{"required": [key]} for key in _spellings(name)]} for name in schema.pop("required")]
    return schema


class _Untitled(GenerateJsonSchema):
    """Leaves out titles: an editor would show `Lora R` above `lora_r`."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _add_aliases(properties: dict[str, Any], aliases: Mapping[str, Alias]) -> None:
    for key, alias in aliases.items():
        targets = " or ".join(alias.targets) or "nothing"
        properties[key] = {"deprecated": True, "description": f"{alias.tool}'s key; read as {targets}."}


def _spellings(name: str) -> list[str]:
    """Return the keys under which a required field may stand."""
    return [name, *(key for key, alias in RUN_ALIASES.items() if name in alias.targets)]
