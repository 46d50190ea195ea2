"""What the estimator and the launcher remark, in words: their codes and figures as sentences.

The templates stand here as literal strings, so that translations can be collected; a test keeps the codes
equal to the engine's. Where a percent sign would be taken for a %-format, a comment tells xgettext.
"""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from jobs.estimation import Advice
from jobs.launch import LaunchWarning

ADVICE_WORDING = {
    "out_of_memory": _(
        "Needs {missing_gib:.1f} GiB more on each accelerator than the {capacity_gib:.0f} GiB it has; "
        "most of it is {largest_part}."
    ),
    "memory_nearly_full": _(
        # xgettext:no-python-format
        "Uses {used_percent:.0f} % of the accelerator's memory; a longer sequence or a spike may not fit."
    ),
    "try_recomputation": _("Recompute activations: they take {activations_gib:.1f} GiB."),
    "try_zero_stage": _("Raise the ZeRO stage: weights, gradients and optimizer take {states_gib:.1f} GiB."),
    "try_smaller_micro_batch": _("Use a micro-batch of {micro_batch_size} instead of {current}."),
    "try_more_devices": _(
        "Spread the model over more accelerators: weights, gradients and optimizer take {states_gib:.1f} GiB."
    ),
    "host_bound": _(
        # xgettext:no-python-format
        "{share_percent:.0f} % of the step waits for the host to launch kernels; use a larger micro-batch."
    ),
    "pipeline_bubble": _(
        # xgettext:no-python-format
        "{share_percent:.0f} % of the step is pipeline bubble; use more micro-batches or virtual stages."
    ),
    "tensor_parallel_costly": _(
        # xgettext:no-python-format
        "{share_percent:.0f} % of the step is tensor-parallel traffic; lower the degree if memory allows."
    ),
    "data_parallel_exposed": _(
        # xgettext:no-python-format
        "{share_percent:.0f} % of the step is exposed data-parallel traffic; use a larger batch or fewer accelerators."
    ),
    "fp16_needs_loss_scaling": _("fp16 needs loss scaling; prefer bf16 where the accelerator has it."),
    "low_precision_residual_stream": _(
        "{layers} layers with a 16-bit residual stream: about {error:.1e} relative rounding error (heuristic); "
        "keep the residual stream in fp32 ({error_fp32:.1e})."
    ),
    "few_tokens_per_parameter": _(
        "{tokens_per_parameter:.1f} tokens for each parameter; about 20 are compute-optimal."
    ),
    "sequence_beyond_positions": _(
        "Sequences of {sequence_length} tokens are longer than the model's {positions} positions."
    ),
    "checkpoints_costly": _("Writing a checkpoint takes {write_s:.0f} s every {interval_s:.0f} s."),
    "low_goodput": _(
        # xgettext:no-python-format
        "Only {goodput_percent:.0f} % of the time is progress, given the failures expected on this many accelerators."
    ),
    "reading_too_fast": _("Reading the data takes {read_mb_per_s:.0f} MB/s, more than half of the storage's rate."),
    "outside_validated_range": _("No published run of this kind was used to check the estimate; the range is wider."),
}

ASSUMPTION_WORDING = {
    "flash_attention": _("FlashAttention: the score matrix is never stored."),
    "standard_attention": _("Unfused attention with dropout masks: the score matrix is stored."),
    "causal_attention_counted_once": _("Model FLOP count half of the score matrix."),
    "fp32_gradients": _("Gradients accumulate in fp32."),
    "fp32_logits": _("Logits and their gradient in fp32; the loss is not fused."),
    "all_storage_for_this_job": _("Storage rates are for this job alone."),
    "energy_at_tdp": _("Energy is that of the accelerators at their rated power."),
    "sharding_runs_eager_kernels": _("ZeRO 2 and 3 run as FSDP or DeepSpeed with unfused kernels."),
    "embedding_and_head_as_layers": _("Pipeline stages are balanced by counting embedding and head as a layer each."),
    "key_heads_copied": _("Key-value heads are copied, since there are fewer than tensor-parallel ranks."),
    "data_sheet_recalled": _("The accelerator's figures are recalled from its data sheet."),
    "measured_peak": _("The peak is the measured rate of a large matrix product."),
    "optimum_checkpoint_interval": _("Checkpoints at the interval of Daly 2006."),
}

MEMORY_PART_LABELS = {
    "weights": _("weights"),
    "gradients": _("gradients"),
    "optimizer": _("optimizer states"),
    "activations": _("activations"),
    "logits": _("logits"),
    "communication": _("communication buffers"),
    "overhead": _("runtime overhead"),
}

LAUNCH_WARNING_WORDING = {
    "crlf": _("Lines of the script end as on Windows; they were converted."),
    "user_directives_ignored": _(
        "{count} #SBATCH lines of the script have no effect: the portal sets the job's resources."
    ),
    "signal_at_start": _(
        "The signal before the end ({signal_lead_s} s) comes as soon as the job starts, since its time limit is "
        "{time_limit_minutes} minutes."
    ),
}


def describe_advice(advice: Advice | Mapping[str, Any]) -> str:
    """A remark of the estimator (or the object stored for it) as a sentence in the reader's language.

    A code that this version doesn't know, from an estimate that another version stored, is returned as it is.
    """
    code = advice.code if isinstance(advice, Advice) else str(advice["code"])
    parameters = dict(advice.parameters if isinstance(advice, Advice) else advice.get("parameters", {}))
    template = ADVICE_WORDING.get(code)
    if template is None:
        return code
    if "largest_part" in parameters:
        parameters["largest_part"] = MEMORY_PART_LABELS.get(parameters["largest_part"], parameters["largest_part"])
    return str(template).format(**parameters)


def describe_assumption(code: str) -> str:
    """What the estimate takes for granted, as a sentence; the code itself if this version doesn't know it."""
    return str(ASSUMPTION_WORDING.get(code, code))


def describe_launch_warning(warning: LaunchWarning) -> str:
    """A remark of the launcher on the script, as a sentence; its code if it has no wording."""
    template = LAUNCH_WARNING_WORDING.get(warning.code)
    return warning.code if template is None else str(template).format(**warning.parameters)
