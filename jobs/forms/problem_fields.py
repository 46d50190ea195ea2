"""Which field of the form a problem of a service or of the engine concerns."""

import re

# Where problems of services and of the engine belong that aren't called as the field is.
_FIELD_OF = {
    "entry.kind": "entry_kind",
    "signal_lead_s": "checkpoint_lead_s",
    "time_limit_minutes": "time_limit",
    "devices": "devices_per_node",
    "model": "model_source",
    "model.preset": "preset",
    "fp32_gradients": "gradient_precision",
    "pure_bf16": "gradient_precision",
    "override_estimate": "override_estimate",
}
_FIELD_OF_PREFIX = {
    "model.config": "config_json",
    "model.architecture": "config_json",
    "architecture": "config_json",
    "command": "command",
    "environment": "environment",
    "script": "script",
    "partition": "partition",
}


def field_of_problem(path: str) -> str:
    """The form's field that a service's or the engine's path names: "workload.model.config.hidden_size"."""
    name = re.sub(r"\A(workload\.|plan\.)+", "", path)
    if name in _FIELD_OF:
        return _FIELD_OF[name]
    for prefix, field in _FIELD_OF_PREFIX.items():
        if name == prefix or name.startswith((f"{prefix}.", f"{prefix}[")):
            return field
    return name
