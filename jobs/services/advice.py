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
    "many_tokens_per_parameter": _(
        "{tokens_per_parameter:.0f} tokens for each parameter: past what is compute-optimal (about 20); sensible for a "
        "model that will be used much."
    ),
    "batch_above_critical": _(
        # xgettext:no-python-format
        "A batch of {batch_tokens:.2g} tokens is above the critical one of about {critical_tokens:.2g}: the run needs "
        "about {extra_percent:.0f} % more tokens than with small batches."
    ),
    "data_repeated": _("The data is seen {epochs:.1f} times; beyond about 4 epochs repeated data is worth much less."),
    "few_steps": _("Only {steps} optimizer steps; a smaller batch would learn more from the same tokens."),
    "model_too_deep": _(
        "{layers} layers are many for the size: about {optimum:.0f} are best (ratio {ratio:.2f}). Kaplan 2020 found "
        "only a few per cent of loss over a wide range of shapes."
    ),
    "unusual_width_per_layer": _(
        "Width over depth is {ratio:.0f}; published models lie between {low:.0f} and {high:.0f}."
    ),
    "fp32_residual_stream_memory": _("A residual stream in fp32 takes {extra_gib:.2f} GiB more on each accelerator."),
    "depth_scaled_initialisation": _(
        "With {layers} layers, scale the initialisation of output projections by 1/sqrt(2 L), or use a depth-scaled "
        "sandwich norm or DeepNorm, against loss spikes."
    ),
    "prefer_bf16": _(
        "The accelerator has bf16: prefer it to fp16, whose range overflows (OPT's loss scale fell to its floor)."
    ),
    "low_precision_blocks": _(
        "{precision} products add about {error:.1e} relative error whatever the depth (heuristic); keep first and last "
        "layers, norms and the head in 16 bits."
    ),
    "shape_not_aligned": _(
        "{dimension} is {size} on each accelerator, no multiple of {multiple}; {better} would run faster."
    ),
    "pad_vocabulary": _(
        # xgettext:no-python-format
        "Pad the vocabulary from {size} to {better} rows (a multiple of {multiple}): the head is {share_percent:.0f} % "
        "of the FLOP, and padding saves up to {saving_percent:.0f} % of the step."
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
    "run_in_segments": _(
        "The time limit of {limit_hours:.0f} h cuts the run into {segments} jobs; starting and ending them costs "
        "{lost_hours:.1f} h."
    ),
    "time_limit_too_short": _(
        "A job of {limit_hours:.1f} h gets nothing done: starting and writing the last checkpoint take "
        "{lost_hours:.1f} h."
    ),
    "small_files": _(
        "{files:.2g} files of {mean_kb:.0f} kB in the mean: pack them (tar shards, memory-mapped records); opening "
        "files is slower than reading them."
    ),
    "inode_quota": _("Data and checkpoints add {files:.2g} files; the quota leaves {free:.2g}."),
    "disk_full": _("Checkpoints fill the disk in {days:.1f} days; keep fewer of them, or make room."),
    "storage_too_slow": _(
        "Data and checkpoints need {needed_gb_per_s:.1f} GB/s, the storage gives {available_gb_per_s:.1f} GB/s."
    ),
    "try_asynchronous_checkpoints": _(
        "Write checkpoints in the background: training then stands still for {stall_s:.1f} s instead of "
        "{write_s:.0f} s."
    ),
    "many_readers_at_start": _(
        "{readers} processes open files at once when the job starts; put code, environment and data index on "
        "node-local disks, or in an image."
    ),
    "experts_cross_supernodes": _(
        "Experts spread over {expert_span} accelerators leave a supernode of {supernode_devices}, whose up-links are "
        "over-subscribed {ratio}: their exchange takes {slowdown:.1f} times as long."
    ),
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
    "recalled_failure_rate": _("The failure rate is Llama 3's; this machine's own was not measured."),
    "pue_assumed": _("Energy includes cooling by an assumed PUE."),
    "queueing_not_counted": _("Time in the queue is not counted, also not between the segments of a run."),
    "asynchronous_checkpoints": _("Checkpoints are copied to host memory and written in the background."),
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
