"""Where a field that a service names stands in the bodies of the API."""

import re
from typing import Final

_RENAMED: Final = (
    (re.compile(r"\Acommand\.argv(?=\Z|\[)"), "entry.command"),
    (re.compile(r"\A(?:command\.)?launcher\Z"), "entry.launcher"),
    (re.compile(r"\Acommand(?=\Z|\[)"), "entry.command"),
    (re.compile(r"\Ascript\Z"), "entry.script"),
    (re.compile(r"\Asignal_lead_s\Z"), "checkpoint_lead_s"),
    (re.compile(r"\Aqos\Z|\Aslurm_account\Z"), "project"),
    (re.compile(r"\Agres_(?:name|type)\Z"), "partition"),
    # The engine's path of a whole architecture lacks the object that holds it.
    (re.compile(r"\Aworkload\.architecture(?=\Z|\.)"), "workload.model.architecture"),
)


def body_path(field: str) -> str:
    """The path of a service's field in the request's body, such as entry.script for script."""
    for pattern, path in _RENAMED:
        if pattern.search(field):
            return pattern.sub(path, field)
    return field
