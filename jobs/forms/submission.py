"""The form of a new job: fields as people fill them in, read into a `SubmissionRequest`."""

import json
import secrets
import shlex
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import access
from accounts.models import Partition, Project, User
from jobs.estimation import LORA_TARGETS, presets
from jobs.forms.choices import (
    FRAMEWORK_CHOICES,
    GRADIENT_CHOICES,
    OFFLOAD_CHOICES,
    OPTIMIZER_CHOICES,
    PRECISION_CHOICES,
    RECOMPUTATION_CHOICES,
    SCHEDULE_CHOICES,
    TARGET_NAMES,
    TASK_CHOICES,
    preset_choices,
)
from jobs.forms.problem_fields import field_of_problem
from jobs.forms.quantities import CountField, MinutesField
from jobs.models import EntryKind, Launcher
from jobs.services.estimates import precisions_of
from jobs.services.lending import cohort_of
from jobs.services.problems import FieldProblem
from jobs.services.submission import SubmissionRequest
from jobs.services.wording import invalid_value
from jobs.spec import MAX_SCRIPT_BYTES

MAX_CONFIG_BYTES: Final = 256 * 1024
_MAX_COUNT: Final = 1_000_000
_PLACEHOLDER_SCRIPT: Final = "#!/bin/sh\n"

_WORKLOAD_FIELDS = (
    *("task", "sequence_length", "global_batch_size", "precision", "optimizer", "attention_kernel", "framework"),
    "bytes_per_token_on_disk",
)
# What is trained in by default, where the accelerator has it.
_USUAL_PRECISION: Final = "bf16"
_OTHER_PRECISIONS: Final = ("fp16", "fp32")


def _whole(label: Any, *, low: int = 1, high: int = _MAX_COUNT, required: bool = False, **extra: Any) -> Any:
    return forms.IntegerField(label=label, required=required, min_value=low, max_value=high, **extra)


class JobForm(forms.Form):
    """A new job. With `is_draft`, what only matters when the job is submitted may still be missing."""

    project = forms.ChoiceField(label=gettext_lazy("Project"))
    partition = forms.ChoiceField(label=gettext_lazy("Partition"))
    nodes = _whole(gettext_lazy("Nodes"), required=True, initial=1)
    devices_per_node = _whole(gettext_lazy("Accelerators per node"), required=True, initial=1)
    time_limit = MinutesField(
        label=gettext_lazy("Time limit"),
        required=False,
        help_text=gettext_lazy("Such as 90 min, 12 h or 2 d. Empty: from the estimate."),
    )

    model_source = forms.ChoiceField(
        label=gettext_lazy("Model"),
        initial="preset",
        choices=[
            ("preset", gettext_lazy("A known model")),
            ("config", gettext_lazy("My config.json")),
            ("none", gettext_lazy("None: just run a script")),
        ],
        widget=forms.RadioSelect,
    )
    preset = forms.ChoiceField(label=gettext_lazy("Known model"), required=False)
    config_json = forms.CharField(
        label="config.json",
        required=False,
        widget=forms.Textarea(attrs={"rows": 8, "spellcheck": "false", "data-drop-text": "config_file"}),
        help_text=gettext_lazy("Paste a Hugging Face config.json, or drop the file here."),
    )
    config_file = forms.FileField(
        label=gettext_lazy("Choose a config.json"), required=False, widget=forms.FileInput(attrs={"accept": ".json"})
    )
    task = forms.ChoiceField(label=gettext_lazy("Task"), choices=TASK_CHOICES, required=False, initial="pretraining")
    tokens = CountField(
        label=gettext_lazy("Training tokens"),
        required=False,
        help_text=gettext_lazy("In all, epochs included: 2e9, 2B or 20亿."),
    )
    sequence_length = _whole(gettext_lazy("Sequence length"), high=10_000_000)
    global_batch_size = _whole(gettext_lazy("Global batch"), help_text=gettext_lazy("In sequences."))
    precision = forms.ChoiceField(label=gettext_lazy("Precision"), choices=PRECISION_CHOICES, required=False)
    optimizer = forms.ChoiceField(label=gettext_lazy("Optimizer"), choices=OPTIMIZER_CHOICES, required=False)
    attention_kernel = forms.ChoiceField(
        label=gettext_lazy("Attention kernel"),
        required=False,
        choices=[("", gettext_lazy("Automatic")), ("flash", "FlashAttention"), ("standard", gettext_lazy("Unfused"))],
    )
    framework = forms.ChoiceField(label=gettext_lazy("Framework"), choices=FRAMEWORK_CHOICES, required=False)
    gradient_precision = forms.ChoiceField(label=gettext_lazy("Gradients in"), choices=GRADIENT_CHOICES, required=False)
    lora_rank = _whole(gettext_lazy("LoRA rank"), high=4096)
    lora_targets = forms.ChoiceField(
        label=gettext_lazy("LoRA targets"),
        required=False,
        choices=[("", gettext_lazy("Automatic")), *((code, TARGET_NAMES[code]) for code in LORA_TARGETS)],
    )
    bytes_per_token_on_disk = forms.FloatField(
        label=gettext_lazy("Bytes per token on disk"), required=False, min_value=0, max_value=1e7
    )

    plan_mode = forms.ChoiceField(
        label=gettext_lazy("Parallel plan"),
        initial="auto",
        required=False,
        choices=[("auto", gettext_lazy("Best plan for me")), ("manual", gettext_lazy("My own plan"))],
        widget=forms.RadioSelect,
    )
    tensor_parallel = _whole(gettext_lazy("Tensor parallel (TP)"), initial=1)
    pipeline_parallel = _whole(gettext_lazy("Pipeline parallel (PP)"), initial=1)
    context_parallel = _whole(gettext_lazy("Context parallel (CP)"), initial=1)
    data_parallel = _whole(gettext_lazy("Data parallel (DP)"), help_text=gettext_lazy("Empty: what is left."))
    expert_parallel = _whole(
        gettext_lazy("Expert parallel (EP)"), initial=1, help_text=gettext_lazy("Within DP × CP × TP.")
    )
    virtual_stages = _whole(gettext_lazy("Virtual stages"), high=1024, initial=1)
    micro_batch_size = _whole(gettext_lazy("Micro-batch"), initial=1)
    zero_stage = _whole(gettext_lazy("ZeRO stage"), low=0, high=3, initial=1)
    recomputation = forms.ChoiceField(
        label=gettext_lazy("Recomputation"), choices=RECOMPUTATION_CHOICES, required=False, initial="none"
    )
    recomputed_layers = _whole(
        gettext_lazy("Recomputed layers"), low=0, help_text=gettext_lazy("Of each stage; empty: all.")
    )
    zero_group = _whole(
        gettext_lazy("ZeRO group"), low=0, help_text=gettext_lazy("Ranks that share states; empty: all.")
    )
    pipeline_schedule = forms.ChoiceField(
        label=gettext_lazy("Pipeline schedule"), choices=SCHEDULE_CHOICES, required=False, initial="1f1b"
    )
    offload = forms.ChoiceField(
        label=gettext_lazy("Kept in host memory"), choices=OFFLOAD_CHOICES, required=False, initial="none"
    )
    sequence_parallel = forms.BooleanField(label=gettext_lazy("Sequence parallelism"), required=False)

    name = forms.CharField(
        label=gettext_lazy("Job name"),
        required=False,
        max_length=128,
        help_text=gettext_lazy("Letters, digits and “_.+-”. Empty: the model's name."),
    )
    entry_kind = forms.ChoiceField(
        label=gettext_lazy("What to run"),
        choices=[
            (EntryKind.SCRIPT.value, gettext_lazy("My own script")),
            (EntryKind.COMMAND.value, gettext_lazy("One command")),
        ],
        initial=EntryKind.SCRIPT.value,
        widget=forms.RadioSelect,
    )
    script = forms.CharField(
        label=gettext_lazy("Script"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 12, "spellcheck": "false", "data-drop-text": "script_file"}),
        help_text=gettext_lazy(
            "The first line names the interpreter, such as #!/bin/bash. A file can be dropped here."
        ),
    )
    script_file = forms.FileField(label=gettext_lazy("Choose a script"), required=False)
    command = forms.CharField(
        label=gettext_lazy("Command"),
        required=False,
        max_length=8192,
        help_text=gettext_lazy("A program and its arguments, such as train.py --config big.yaml."),
    )
    launcher = forms.ChoiceField(
        label=gettext_lazy("Started by"),
        choices=[
            (Launcher.NONE.value, gettext_lazy("nothing: once on the first node")),
            (Launcher.TORCHRUN.value, gettext_lazy("torchrun: once per accelerator")),
        ],
        required=False,
        initial=Launcher.NONE.value,
    )
    environment = forms.CharField(
        label=gettext_lazy("Environment"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text=gettext_lazy("One NAME=value a line."),
    )
    checkpoint_lead_s = _whole(
        gettext_lazy("Signal before the end"),
        low=0,
        high=86_400,
        help_text=gettext_lazy("SIGUSR1 this long before the time limit, so that a checkpoint can be written."),
    )
    override_estimate = forms.BooleanField(label=gettext_lazy("Submit although it doesn't seem to fit"), required=False)
    is_preemptible = forms.BooleanField(label=gettext_lazy("Run on borrowed accelerators"), required=False)

    architecture = forms.CharField(required=False, widget=forms.HiddenInput)
    cloned_from = forms.UUIDField(required=False, widget=forms.HiddenInput)
    form_key = forms.CharField(required=False, max_length=64, widget=forms.HiddenInput)

    def __init__(
        self,
        data: Any = None,
        files: Any = None,
        *,
        user: User,
        initial: Mapping[str, Any] | None = None,
        is_draft: bool = False,
    ) -> None:
        super().__init__(data, files, initial={"form_key": secrets.token_urlsafe(24), **(initial or {})})
        self.is_draft = is_draft
        self.projects: list[Project] = list(access.submittable_projects(user).order_by("code"))
        self.partitions: list[Partition] = list(access.usable_partitions(user).order_by("cluster__code", "name"))
        self._set_choices("project", [(project.code, str(project)) for project in self.projects])
        self._set_choices("partition", [(self.address(item), str(item)) for item in self.partitions])
        self._set_choices("preset", [("", _("Choose a model")), *preset_choices()])
        if self["architecture"].value():
            self._set_choices("model_source", [("architecture", _("As in the copied job")), *MODEL_SOURCES])

    @staticmethod
    def address(partition: Partition) -> str:
        """How the form names a partition."""
        return f"{partition.cluster.code}/{partition.name}"

    @property
    def chosen_partition(self) -> Partition | None:
        """The partition that a valid form names."""
        value = self.cleaned_data.get("partition")
        return next((item for item in self.partitions if self.address(item) == value), None)

    def clean_config_file(self) -> str:
        return _read_text(self.cleaned_data.get("config_file"), max_bytes=MAX_CONFIG_BYTES)

    def clean_script_file(self) -> str:
        return _read_text(self.cleaned_data.get("script_file"), max_bytes=MAX_SCRIPT_BYTES)

    def clean_script(self) -> str:
        # Browsers send every line end of a text area as CRLF.
        return str(self.cleaned_data["script"]).replace("\r\n", "\n")

    def clean_command(self) -> list[str]:
        try:
            return shlex.split(self.cleaned_data["command"])
        except ValueError as error:
            raise ValidationError(_("A quotation mark is not closed."), code="invalid") from error

    def clean_environment(self) -> dict[str, str]:
        variables: dict[str, str] = {}
        for number, line in enumerate(self.cleaned_data["environment"].splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, separator, value = line.partition("=")
            name = name.strip().removeprefix("export ").strip()
            if not separator or not name or name in variables:
                message = (
                    _("Line %(line)s: “%(name)s” is set twice.")
                    if separator and name
                    else _("Line %(line)s has no “=”: write NAME=value.")
                )
                raise ValidationError(message, code="invalid", params={"line": number, "name": name[:40]})
            variables[name] = value
        return variables

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        source = data.get("model_source")
        if source == "preset":
            self._require("preset", _("Choose a model."))
        elif source == "config":
            self._read_model_json("config_json", data.get("config_file") or data.get("config_json"))
        elif source == "architecture":
            self._read_model_json("architecture", data.get("architecture"))
        if source != "none":
            self._require("tokens", _("Say how many tokens the run sees."))
        self._check_precision()
        partition = self.chosen_partition
        if data.get("is_preemptible") and (partition is None or cohort_of(partition) is None):
            data["is_preemptible"] = False  # of the partition chosen before: this one doesn't offer it
        if not self.is_draft:
            if data.get("script_file"):
                data["script"] = data["script_file"]
            if data.get("entry_kind") == EntryKind.SCRIPT:
                self._require("script", _("Write a script, or choose a file."))
            elif data.get("entry_kind") == EntryKind.COMMAND:
                self._require("command", _("Write the command to run."))
        if source != "none" and data.get("plan_mode") == "manual":
            self._fill_data_parallel()
        return data

    def to_request(self) -> SubmissionRequest:
        """The request of a valid form; of a draft, with a stand-in for what is still to be written."""
        data = self.cleaned_data
        cluster, _separator, partition = data["partition"].partition("/")
        kind = data["entry_kind"]
        script, command = data["script"], data["command"]
        if self.is_draft:
            kind, script, command = EntryKind.SCRIPT.value, _PLACEHOLDER_SCRIPT, []
        return SubmissionRequest(
            project=data["project"],
            cluster=cluster,
            partition=partition,
            name=data["name"] or (data["preset"] if data["model_source"] == "preset" else "") or "job",
            nodes=data["nodes"],
            devices_per_node=data["devices_per_node"],
            entry_kind=kind,
            script=script if kind == EntryKind.SCRIPT else "",
            command=tuple(command) if kind == EntryKind.COMMAND else (),
            launcher=data["launcher"] if kind == EntryKind.COMMAND and data["launcher"] else Launcher.NONE.value,
            environment=data["environment"],
            time_limit_minutes=data["time_limit"],
            checkpoint_lead_s=data["checkpoint_lead_s"] or 0,
            workload=self._workload(),
            plan=self._plan(),
            override_estimate=data["override_estimate"],
            is_preemptible=data["is_preemptible"],
            cloned_from=data["cloned_from"],
        )

    def add_problems(self, problems: Iterable[FieldProblem]) -> None:
        """Show what a service found wrong at the fields it concerns."""
        for problem in problems:
            name = field_of_problem(problem.field)
            field = name if name in self.fields and not self.fields[name].widget.is_hidden else None
            if field == "config_json" and self.cleaned_data.get("model_source") != "config":
                field = None
            self.add_error(field, problem.message)

    def focus_first_error(self) -> None:
        """Put the cursor where something is wrong."""
        for name in self.fields:
            if name in self.errors and not self.fields[name].widget.is_hidden:
                self.fields[name].widget.attrs["autofocus"] = True
                return

    def renew_key(self) -> None:
        """Make the next submission of this form a new one."""
        data = QueryDict(mutable=True)
        data.update(self.data)
        data["form_key"] = secrets.token_urlsafe(24)
        self.data = data

    def _workload(self) -> dict[str, Any] | None:
        data = self.cleaned_data
        source = data["model_source"]
        if source == "none":
            return None
        model = {
            "preset": lambda: {"preset": data["preset"]},
            "config": lambda: {"config": data["config_json"]},
            "architecture": lambda: {"architecture": data["architecture"]},
        }[source]()
        names = [*_WORKLOAD_FIELDS]
        if data.get("task") in ("lora", "qlora"):
            names += ["lora_rank", "lora_targets"]
        chosen = {name: data[name] for name in names if data.get(name) not in (None, "")}
        if "precision" not in chosen and (precision := self._replace_usual_precision()):
            chosen["precision"] = precision
        if data.get("gradient_precision") == "pure-bf16":
            chosen["pure_bf16"] = True
        elif data.get("gradient_precision"):
            chosen["fp32_gradients"] = data["gradient_precision"] == "fp32"
        return {"model": model, "tokens": data["tokens"], **chosen}

    def _replace_usual_precision(self) -> str | None:
        """What to train in where the accelerators don't have the usual precision; None where they do."""
        partition = self.chosen_partition
        known = precisions_of(partition) if partition else ()
        preset = presets().get(self.cleaned_data.get("preset", ""))
        is_named = self.cleaned_data["model_source"] == "preset"
        usual = preset.defaults.get("precision", _USUAL_PRECISION) if preset and is_named else _USUAL_PRECISION
        if not known or usual in known:
            return None
        return next((precision for precision in _OTHER_PRECISIONS if precision in known), None)

    def _plan(self) -> dict[str, Any] | None:
        data = self.cleaned_data
        if data["model_source"] == "none" or data.get("plan_mode") != "manual":
            return None
        degrees = ("tensor_parallel", "pipeline_parallel", "context_parallel", "data_parallel", "expert_parallel")
        return {
            **{name: data[name] or 1 for name in (*degrees, "virtual_stages", "micro_batch_size")},
            **{name: data[name] or 0 for name in ("zero_stage", "zero_group", "recomputed_layers")},
            "recomputation": data["recomputation"] or "none",
            "pipeline_schedule": data["pipeline_schedule"] or "1f1b",
            "offload": data["offload"] or "none",
            "sequence_parallel": data["sequence_parallel"],
        }

    def _check_precision(self) -> None:
        precision, partition = self.cleaned_data.get("precision"), self.chosen_partition
        if not precision or partition is None or self.cleaned_data.get("model_source") == "none":
            return
        known = precisions_of(partition)
        if known and precision not in known:
            allowed = f"a precision of {partition.accelerator}: " + ", ".join(known)
            self.add_error("precision", invalid_value(field="precision", value=precision, allowed=allowed).message)

    def _fill_data_parallel(self) -> None:
        data = self.cleaned_data
        nodes, per_node = data.get("nodes"), data.get("devices_per_node")
        if data.get("data_parallel") or nodes is None or per_node is None:
            return
        others = 1
        for name in ("tensor_parallel", "pipeline_parallel", "context_parallel"):
            others *= data.get(name) or 1
        data["data_parallel"] = max(nodes * per_node // others, 1)

    def _read_model_json(self, name: str, text: Any) -> None:
        if name in self.errors:
            return
        if not text:
            self.add_error(name, _("Paste a config.json, or choose a file."))
            return
        if len(text) > MAX_CONFIG_BYTES:
            message = _("This is too long for a config.json: at most %(size)s KiB.") % {
                "size": MAX_CONFIG_BYTES // 1024
            }
            self.add_error(name, message)
            return
        try:
            model = json.loads(text)
        except (ValueError, RecursionError) as error:
            where = getattr(error, "lineno", None)
            message = _("This is not JSON (line %(line)s).") % {"line": where} if where else _("This is not JSON.")
            self.add_error(name, message)
            return
        if not isinstance(model, dict):
            self.add_error(name, _("A config.json is an object: { … }."))
            return
        self.cleaned_data[name] = model

    def _require(self, name: str, message: str) -> None:
        if name not in self.errors and not self.cleaned_data.get(name):
            self.add_error(name, message)

    def _set_choices(self, name: str, choices: list[Any]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 (for the type checker)
        field.choices = choices


MODEL_SOURCES: Final = list(JobForm.base_fields["model_source"].choices)  # type: ignore[attr-defined]


def initial_from_request(request: SubmissionRequest, *, cloned_from: uuid.UUID) -> dict[str, Any]:
    """What the form shows when a job is submitted once more."""
    initial: dict[str, Any] = {
        "project": request.project,
        "partition": f"{request.cluster}/{request.partition}",
        "name": request.name,
        "nodes": request.nodes,
        "devices_per_node": request.devices_per_node,
        "time_limit": f"{request.time_limit_minutes} min",
        "entry_kind": request.entry_kind,
        "script": request.script,
        "command": shlex.join(request.command),
        "launcher": request.launcher,
        "environment": "\n".join(f"{name}={value}" for name, value in request.environment.items()),
        "checkpoint_lead_s": request.checkpoint_lead_s,
        "override_estimate": request.override_estimate,
        "is_preemptible": request.is_preemptible,
        "cloned_from": cloned_from,
        "model_source": "none",
    }
    if request.workload is not None:
        workload = dict(request.workload)
        model = workload.pop("model")
        if "preset" in model:
            initial |= {"model_source": "preset", "preset": model["preset"]}
        else:
            initial |= {"model_source": "architecture", "architecture": json.dumps(model["architecture"])}
        gradients = "fp32" if workload.pop("fp32_gradients", True) else "16-bit"
        if workload.pop("pure_bf16", False):
            gradients = "pure-bf16"
        initial |= {**workload, "gradient_precision": gradients}
    return initial


def _read_text(file: Any, *, max_bytes: int) -> str:
    """The text of an uploaded file, with Unix line ends."""
    if file is None:
        return ""
    if file.size is None or file.size > max_bytes:
        message = _("“%(name)s” is too large: at most %(size)s KiB.")
        raise ValidationError(message, code="too_large", params={"name": file.name, "size": max_bytes // 1024})
    data: bytes = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = _("“%(name)s” is not UTF-8 text: byte %(position)s can't be read.")
        params = {"name": file.name, "position": error.start}
        raise ValidationError(message, code="encoding", params=params) from error
    if "\x00" in text:
        raise ValidationError(
            _("“%(name)s” holds NUL bytes: it is not a text file."), code="null", params={"name": file.name}
        )
    return text.replace("\r\n", "\n")
