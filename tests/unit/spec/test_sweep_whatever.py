"""Whatever a sweep's file says, it is a sweep or a list of problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylora.errors import SpecError
from raylora.spec.fields.knobs import KINDS
from raylora.spec.fields.sweep import SweepFields
from raylora.spec.text.yaml_text import write_yaml
from tests.unit.spec.sweep_texts import load_text

keys = st.sampled_from(
    [*SweepFields.model_fields, *KINDS, "when", "of", "lora_r", "distributed", "datasets.0.path", ".", ""]
)
scalars = st.none() | st.booleans() | st.integers(-2, 40) | st.floats(-1, 2) | keys
values = st.recursive(scalars, lambda each: st.lists(each, max_size=3) | st.dictionaries(keys, each, max_size=3))
knobs = st.dictionaries(keys | st.just("_x"), values | st.dictionaries(st.sampled_from([*KINDS, "when"]), values))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(keys, values, max_size=4), space=knobs | values)
def test_whatever_a_file_says_is_a_sweep_or_a_told_problem(tmp_path: Path, values: dict[str, Any], space: Any):
    text = write_yaml({"run": {"base_model": "a", "datasets": [{"path": "b"}]}, "space": space} | values)
    try:
        assert load_text(tmp_path, text).spec.num_configurations > 0
    except SpecError as error:
        assert error.problems
