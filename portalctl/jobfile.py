"""Job files: YAML that says what to run. `portalctl schema` prints their JSON schema.

Errors name the line and the field. What an option gives replaces what the file says.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from portalctl.session import BadInput

LARGEST_FILE_BYTES: Final = 2 * 1024 * 1024
SCHEMA_URL: Final = "https://json-schema.org/draft/2020-12/schema"
_MOST_VALUES: Final = 100_000
_PLAIN_TAGS: Final = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_NUMBER_TAGS: Final = {"tag:yaml.org,2002:int"}
_PLAIN_NUMBER = re.compile(r"\A(?:0|-?[1-9][0-9]*)\Z")
_NUMBER = re.compile(r"\A[0-9]+(?:\.[0-9]+)?[eE]\+?[0-9]{1,2}\Z")

Location = tuple[str | int, ...]
Checked = TypeVar("Checked", bound=BaseModel)


def _read_count(value: Any) -> Any:
    """YAML reads 1e9 as text, and 1.0e+9 as a number that isn't whole: both are meant as one."""
    if isinstance(value, str) and _NUMBER.match(value):
        value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Count = Annotated[int, BeforeValidator(_read_count)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Value = Annotated[str, StringConstraints(max_length=4096), BeforeValidator(_read_text)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class EntryPart(_Part):
    """What to run: a script, a script in another file, or a command."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [one]} for one in ("script", "script_file", "command")]}
    )

    kind: Literal["script", "command"] | None = Field(default=None, description="May be left out.")
    script: str | None = Field(default=None, description="A batch script; starts with #!, such as #!/bin/bash.")
    script_file: str | None = Field(default=None, description="Path of a batch script, from the job file's directory.")
    command: list[str] | None = Field(
        default=None, min_length=1, max_length=4096, description="A list of words; no shell reads it."
    )
    launcher: str | None = Field(
        default=None, description="Of a command: torchrun starts it on every accelerator; none is the default."
    )

    @model_validator(mode="after")
    def _check_alternatives(self) -> "EntryPart":
        given = [name for name in ("script", "script_file", "command") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give one of script, script_file and command")
        if self.kind is not None and (self.kind == "command") != (given == ["command"]):
            raise ValueError(f"kind is {self.kind}, but there is a {given[0]}")
        if self.launcher is not None and given != ["command"]:
            raise ValueError("a launcher needs a command")
        return self


class ModelPart(_Part):
    """What is trained: a preset, a Hugging Face configuration, or an architecture."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [one]} for one in ("preset", "config", "config_file", "architecture")]
        }
    )

    preset: str | None = Field(default=None, description="A name of `portalctl presets`.")
    config: dict[str, Any] | None = Field(default=None, description="What a Hugging Face config.json holds.")
    config_file: str | None = Field(
        default=None, description="Path of a Hugging Face config.json, from the job file's directory."
    )
    architecture: dict[str, Any] | None = Field(default=None, description="The estimator's own description.")

    @model_validator(mode="after")
    def _check_alternatives(self) -> "ModelPart":
        given = [
            name for name in ("preset", "config", "config_file", "architecture") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError("give one of preset, config, config_file and architecture")
        return self


class WorkloadPart(BaseModel):
    """The training run. The portal checks the fields that are not named here, such as sequence_length or precision."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: ModelPart
    tokens: Count = Field(ge=1, description="Tokens to train on, such as 1e9.")


class EstimateFile(_Part):
    """What the portal needs for an estimate."""

    project: Text | None = Field(default=None, description="Code of the project that pays.")
    cluster: Text
    partition: Text
    nodes: Count = Field(ge=1)
    devices_per_node: Count = Field(ge=1, description="Accelerators of each node.")
    workload: WorkloadPart
    plan: dict[str, Any] | None = Field(default=None, description="A parallel plan instead of the best one.")


class JobFile(_Part):
    """A job for the portal. A field that an option of `portalctl submit` gives may be left out."""

    project: Text = Field(description="Code of the project that pays.")
    cluster: Text
    partition: Text
    name: Annotated[str, StringConstraints(min_length=1, max_length=128)] = Field(
        description="Letters, digits and _.+-, starting with a letter or digit."
    )
    nodes: Count = Field(default=1, ge=1)
    devices_per_node: Count = Field(ge=1, description="Accelerators of each node.")
    entry: EntryPart
    time_limit_minutes: Count | None = Field(
        default=None, ge=1, description="Default: from the estimate if there is a workload, else the partition's."
    )
    checkpoint_lead_s: Count | None = Field(
        default=None, ge=0, le=65_535, description="SIGUSR1 is sent this long before the time limit; 0: never."
    )
    environment: dict[str, Value] | None = Field(default=None, description="Variables of the job.")
    workload: WorkloadPart | None = Field(default=None, description="With it, the job is estimated before it may run.")
    plan: dict[str, Any] | None = Field(default=None, description="A parallel plan instead of the best one.")
    override_estimate: bool | None = Field(
        default=None, description="Run even if the estimate says that it doesn't fit."
    )
    is_preemptible: bool | None = Field(
        default=None, description="Run on idle shares of others, cheaper; it makes room when their owners need them."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a file says, and where. `lines` has the line of each field by its path."""

    name: str
    directory: Path
    fields: dict[str, Any]
    lines: Mapping[Location, int]

    def place(self, path: Location, options: Mapping[str, str]) -> str:
        """Where a field came from: an option, a line, or the whole file."""
        if path and path[0] in options:
            return f"option {options[str(path[0])]}"
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines[path]}" if path else self.name


NO_FILE: Final = Source(name="options", directory=Path(), fields={}, lines={})


def read_source(path: Path) -> Source:
    """Read a job file, without checking its fields; the JSON that it may hold is YAML as well.

    Raises:
        BadInput: it can't be read, is not YAML, or is no object at its top.
    """
    try:
        raw = path.read_bytes()
        if len(raw) > LARGEST_FILE_BYTES:
            raise BadInput(f"{path}: a job file may have {LARGEST_FILE_BYTES} bytes; this one has {len(raw)}.")
        node = yaml.compose(raw.decode("utf-8"), Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise BadInput(f"{path}:1: a job file has fields, such as `partition: host-cpu`.")
        lines: dict[Location, int] = {}
        _note_lines(path, node, (), lines)
        fields = _construct(node)
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8: byte {error.start}.") from error
    except RecursionError as error:
        raise BadInput(f"{path} is nested too deeply, or holds itself.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{line}: not YAML: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    return Source(name=str(path), directory=path.parent, fields=fields, lines=lines)


def build_job(source: Source, overrides: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """The body of a submission. `options` names the option that each overriding field came from.

    Raises:
        BadInput: naming each field that is missing or not allowed, with its line.
    """
    job = _check(JobFile, source, overrides, options)
    body = _without_none(job)
    body["entry"] = _build_entry(job.entry, source)
    if job.workload is not None:
        body["workload"] = _build_workload(job.workload, source)
    return body


def build_estimate(source: Source, overrides: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """The body of an estimate: of a job file, the fields that it needs.

    Raises:
        BadInput: as `build_job`.
    """
    only_of_jobs = set(JobFile.model_fields) - set(EstimateFile.model_fields)
    fields = {"nodes": 1, **{name: value for name, value in source.fields.items() if name not in only_of_jobs}}
    slim = Source(name=source.name, directory=source.directory, fields=fields, lines=source.lines)
    estimate = _check(EstimateFile, slim, overrides, options)
    return {**_without_none(estimate), "workload": _build_workload(estimate.workload, source)}


def job_schema() -> dict[str, Any]:
    """The JSON schema of job files."""
    return {"$schema": SCHEMA_URL, **JobFile.model_json_schema()}


def describe_problem_place(source: Source, name: str, options: Mapping[str, str]) -> str:
    """The place of a field that the portal named, such as entry.command[0]; empty if it is not of the file."""
    parts: list[str | int] = [int(one) if one.isdigit() else one for one in re.findall(r"[^.\[\]]+", name)]
    if not parts or (parts[0] not in source.fields and parts[0] not in options):
        return ""
    return source.place(tuple(parts), options)


def _check(model: type[Checked], source: Source, overrides: Mapping[str, Any], options: Mapping[str, str]) -> Checked:
    try:
        return model.model_validate({**source.fields, **overrides})
    except ValidationError as error:
        raise BadInput(
            *(
                _describe(one["type"], one["loc"], one["msg"], one.get("input"), model, source, options)
                for one in error.errors(include_url=False, include_context=False)
            )
        ) from error


def _describe(
    kind: str,
    location: Location,
    message: str,
    value: Any,
    model: type[BaseModel],
    source: Source,
    options: Mapping[str, str],
) -> str:
    name = _name(location)
    place = source.place(location, options)
    if kind == "missing":
        return (
            f"{place}: {name} is missing" if source is not NO_FILE else f"{name} is missing; give a job file or options"
        )
    if kind == "extra_forbidden":
        known = ", ".join(_known_fields(model, location[:-1]))
        return f"{place}: {name}: there is no such field; allowed: {known}"
    words = message.removeprefix("Value error, ").removeprefix("Input ")
    shown = f" {_shorten(value)!r}:" if isinstance(value, str | int | float | bool) or value is None else ""
    return f"{place}: {name}:{shown} {words}"


def _known_fields(model: type[BaseModel], path: Location) -> Sequence[str]:
    parts: dict[str, type[BaseModel]] = {"entry": EntryPart, "model": ModelPart, "workload": WorkloadPart}
    owner = parts.get(str(path[-1]), model) if path else model
    return list(owner.model_fields)


def _shorten(value: Any) -> Any:
    return f"{value[:60]}…" if isinstance(value, str) and len(value) > 60 else value


def _without_none(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(exclude_none=True)


def _build_entry(entry: EntryPart, source: Source) -> dict[str, Any]:
    if entry.command is not None:
        return {"kind": "command", "command": entry.command, **({"launcher": entry.launcher} if entry.launcher else {})}
    if entry.script_file is not None:
        return {"kind": "script", "script": _read_beside(source, ("entry", "script_file"), entry.script_file)}
    return {"kind": "script", "script": entry.script}


def _build_workload(workload: WorkloadPart, source: Source) -> dict[str, Any]:
    body = _without_none(workload)
    file = workload.model.config_file
    if file is not None:
        path: Location = ("workload", "model", "config_file")
        try:
            body["model"] = {"config": json.loads(_read_beside(source, path, file))}
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"{source.place(path, {})}: workload.model.config_file: {file} is not JSON: {error}"
            ) from error
    return body


def _read_beside(source: Source, path: Location, name: str) -> str:
    place = f"{source.place(path, {})}: {'.'.join(map(str, path))}: {name}"
    try:
        raw = (source.directory / name).read_bytes()
        if len(raw) > LARGEST_FILE_BYTES:
            raise BadInput(f"{place} has {len(raw)} bytes; allowed: {LARGEST_FILE_BYTES}")
        return raw.decode("utf-8")
    except OSError as error:
        raise BadInput(f"{place} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{place} is not UTF-8: byte {error.start}") from error


def _construct(node: yaml.MappingNode) -> dict[str, Any]:
    loader = yaml.SafeLoader("")
    try:
        fields: dict[str, Any] = loader.construct_document(node)
    finally:
        loader.dispose()
    return fields


def _check_scalar(file: Path, node: yaml.ScalarNode, path: Location) -> None:
    """Refuse what YAML reads as another thing than is written: .nan, and 010 or 1:30 in a variable."""
    is_odd_number = (
        node.tag == "tag:yaml.org,2002:float" and "." in node.value and not any(map(str.isdigit, node.value))
    )
    is_odd_text = path[:1] == ("environment",) and node.tag in _NUMBER_TAGS and not _PLAIN_NUMBER.match(node.value)
    if is_odd_number or is_odd_text:
        raise BadInput(f"{file}:{node.start_mark.line + 1}: {_name(path)}: put {node.value[:60]} in quotes.")


def _name(path: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _note_lines(file: Path, node: yaml.Node, path: Location, lines: dict[Location, int]) -> None:
    """The line of each field. A key given twice, which YAML's loader takes in silence, is refused, and so is a merge
    of mappings, whose fields would have no line.
    """
    if len(lines) > _MOST_VALUES:
        raise BadInput(f"{file}: a job file may hold {_MOST_VALUES} values; aliases count as often as they are used.")
    if path not in lines:
        lines[path] = node.start_mark.line + 1
    if node.tag not in _PLAIN_TAGS:
        raise BadInput(
            f"{file}:{node.start_mark.line + 1}: YAML does not read {_name(path)} as text; put it in quotes."
        )
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(file, node, path)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(file, item, (*path, index), lines)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise BadInput(f"{file}:{line}: a name must be text.")
        if key.tag != "tag:yaml.org,2002:str":
            raise BadInput(f"{file}:{line}: {key.value}: YAML does not read this name as text; put it in quotes.")
        below = (*path, key.value)
        if below in lines:
            raise BadInput(f"{file}:{line}: {key.value} stands twice; first in line {lines[below]}.")
        lines[below] = line
        _note_lines(file, value, below, lines)
