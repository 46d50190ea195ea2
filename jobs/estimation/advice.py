"""Machine-readable advice and assumptions; a user interface translates the codes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from jobs.estimation.validation import InvalidInput, check_choice, check_keys, check_mapping

SEVERITIES: Final = ("info", "warning", "error")

ADVICE_TEXT: Final[Mapping[str, str]] = {
    "out_of_memory": "Needs {missing_gib:.1f} GiB more on each device than the {capacity_gib:.0f} GiB it has; "
    "most of it is {largest_part}.",
    "memory_nearly_full": "Uses {used_percent:.0f} % of device memory; a longer sequence or a spike may not fit.",
    "try_recomputation": "Recompute activations: they take {activations_gib:.1f} GiB.",
    "try_zero_stage": "Raise the ZeRO stage: weights, gradients and optimizer take {states_gib:.1f} GiB.",
    "try_smaller_micro_batch": "Use a micro-batch of {micro_batch_size} instead of {current}.",
    "try_more_devices": "Spread the model over more devices: weights, gradients and optimizer take "
    "{states_gib:.1f} GiB.",
    "host_bound": "{share_percent:.0f} % of the step waits for the host to launch kernels; use a larger micro-batch.",
    "pipeline_bubble": "{share_percent:.0f} % of the step is pipeline bubble; use more micro-batches or "
    "virtual stages.",
    "tensor_parallel_costly": "{share_percent:.0f} % of the step is tensor-parallel traffic; lower the degree "
    "if memory allows.",
    "data_parallel_exposed": "{share_percent:.0f} % of the step is exposed data-parallel traffic; use a larger "
    "batch or fewer devices.",
    "fp16_needs_loss_scaling": "fp16 needs loss scaling; prefer bf16 where the accelerator has it.",
    "low_precision_residual_stream": "{layers} layers with a 16-bit residual stream: about {error:.1e} relative "
    "rounding error (heuristic); keep the residual stream in fp32 ({error_fp32:.1e}).",
    "few_tokens_per_parameter": "{tokens_per_parameter:.1f} tokens a parameter; about 20 are compute-optimal.",
    "sequence_beyond_positions": "Sequences of {sequence_length} tokens exceed the model's {positions} positions.",
    "checkpoints_costly": "Writing a checkpoint takes {write_s:.0f} s every {interval_s:.0f} s.",
    "low_goodput": "Only {goodput_percent:.0f} % of the time is progress, given the failures expected on this many "
    "devices.",
    "reading_too_fast": "Reading the data takes {read_mb_per_s:.0f} MB/s, more than half of the storage's rate.",
    "experts_cross_supernodes": "Experts spread over {expert_span} devices leave a supernode of {supernode_devices}, "
    "whose up-links are over-subscribed {ratio}: their exchange takes {slowdown:.1f} times as long.",
    # the whole run
    "run_in_segments": "The time limit of {limit_hours:.0f} h cuts the run into {segments} jobs; starting and ending "
    "them costs {lost_hours:.1f} h.",
    "time_limit_too_short": "A job of {limit_hours:.1f} h gets nothing done: starting and writing the last checkpoint "
    "take {lost_hours:.1f} h.",
    # data and checkpoints
    "small_files": "{files:.2g} files of {mean_kb:.0f} kB in the mean: pack them (tar shards, memory-mapped records); "
    "opening files is slower than reading them.",
    "inode_quota": "Data and checkpoints add {files:.2g} files; the quota leaves {free:.2g}.",
    "disk_full": "Checkpoints fill the disk in {days:.1f} days; keep fewer of them, or make room.",
    "storage_too_slow": "Data and checkpoints need {needed_gb_per_s:.1f} GB/s, the storage gives "
    "{available_gb_per_s:.1f} GB/s.",
    "try_asynchronous_checkpoints": "Write checkpoints in the background: training then stands still for {stall_s:.1f} "
    "s instead of {write_s:.0f} s.",
    "many_readers_at_start": "{readers} processes open files at once when the job starts; put code, environment and "
    "data index on node-local disks, or in an image.",
    # depth and precision
    "model_too_deep": "{layers} layers are many for the size: about {optimum:.0f} are best (ratio {ratio:.2f}). "
    "Kaplan 2020 found only a few per cent of loss over a wide range of shapes.",
    "unusual_width_per_layer": "Width over depth is {ratio:.0f}; published models lie between {low:.0f} and "
    "{high:.0f}.",
    "fp32_residual_stream_memory": "A residual stream in fp32 takes {extra_gib:.2f} GiB more on a device.",
    "depth_scaled_initialisation": "With {layers} layers, scale the initialisation of output projections by "
    "1/sqrt(2 L), or use a depth-scaled sandwich norm or DeepNorm, against loss spikes.",
    "prefer_bf16": "The accelerator has bf16: prefer it to fp16, whose range overflows (OPT's loss scale fell to its "
    "floor).",
    "low_precision_blocks": "{precision} products add about {error:.1e} relative error whatever the depth (heuristic); "
    "keep first and last layers, norms and the head in 16 bits.",
    "shape_not_aligned": "{dimension} is {size} on a device, no multiple of {multiple}; {better} would run faster.",
    "pad_vocabulary": "Pad the vocabulary from {size} to {better} rows (a multiple of {multiple}): the head is "
    "{share_percent:.0f} % of the FLOP, and padding saves up to {saving_percent:.0f} % of the step.",
    # batch and data
    "batch_above_critical": "A batch of {batch_tokens:.2g} tokens is above the critical one of about "
    "{critical_tokens:.2g}: the run needs about {extra_percent:.0f} % more tokens than with small batches.",
    "many_tokens_per_parameter": "{tokens_per_parameter:.0f} tokens a parameter: past what is compute-optimal (about "
    "20); sensible for a model that will be used much.",
    "data_repeated": "The data is seen {epochs:.1f} times; beyond about 4 epochs repeated data is worth much less.",
    "few_steps": "Only {steps} optimizer steps; a smaller batch would learn more from the same tokens.",
    "outside_validated_range": "No published run of this kind was used to check the estimate; the range is wider.",
}
"""English templates by code; the parameters of `Advice` fill them."""

ADVICE_SOURCE: Final[Mapping[str, str]] = {
    "experts_cross_supernodes": "Ma 2022 (BaGuaLu, doi 10.1145/3503221.3508417)",
    "checkpoints_costly": "Daly 2006 (doi 10.1016/j.future.2004.11.016)",
    "low_goodput": "Daly 2006 (doi 10.1016/j.future.2004.11.016)",
    "try_asynchronous_checkpoints": "Wan 2025 (ByteCheckpoint, arXiv 2407.20143): stalls 54 times shorter",
    "model_too_deep": "Levine 2020 (arXiv 2006.12467), Kaplan 2020 (arXiv 2001.08361)",
    "unusual_width_per_layer": "Kaplan 2020 (arXiv 2001.08361), 3.1",
    "low_precision_residual_stream": "measured by this project on a random residual network",
    "fp32_residual_stream_memory": "Korthikanti 2022 (arXiv 2205.05198)",
    "depth_scaled_initialisation": "Pangu Ultra (arXiv 2504.07866), DeepNorm (arXiv 2203.00555)",
    "fp16_needs_loss_scaling": "Micikevicius 2018 (arXiv 1710.03740)",
    "prefer_bf16": "OPT-175B logbook (arXiv 2205.01068)",
    "low_precision_blocks": "measured by this project on a random residual network",
    "shape_not_aligned": "Anthony 2024 (arXiv 2401.14489)",
    "pad_vocabulary": "nanoGPT: 25 % by 50,304 instead of 50,257 rows; Anthony 2024 (arXiv 2401.14489)",
    "few_tokens_per_parameter": "Hoffmann 2022 (arXiv 2203.15556)",
    "many_tokens_per_parameter": "Hoffmann 2022 (arXiv 2203.15556)",
    "batch_above_critical": "McCandlish 2018 (arXiv 1812.06162), Bergsma 2025 (arXiv 2505.13738)",
    "data_repeated": "Muennighoff 2023 (arXiv 2305.16264)",
}
"""Where the rule behind a remark comes from; remarks not listed follow from the estimate itself."""

ASSUMPTION_TEXT: Final[Mapping[str, str]] = {
    "flash_attention": "FlashAttention: the score matrix is never stored.",
    "standard_attention": "Unfused attention with dropout masks: the score matrix is stored.",
    "causal_attention_counted_once": "Model FLOP count half of the score matrix.",
    "fp32_gradients": "Gradients accumulate in fp32.",
    "fp32_logits": "Logits and their gradient in fp32; the loss is not fused.",
    "all_storage_for_this_job": "Storage rates are for this job alone.",
    "energy_at_tdp": "Energy is that of the accelerators at their rated power.",
    "sharding_runs_eager_kernels": "ZeRO 2 and 3 run as FSDP or DeepSpeed with unfused kernels.",
    "embedding_and_head_as_layers": "Pipeline stages are balanced by counting embedding and head as a layer each.",
    "key_heads_copied": "Key-value heads are copied, since there are fewer than tensor-parallel ranks.",
    "data_sheet_recalled": "The accelerator's figures are recalled from its data sheet.",
    "measured_peak": "The peak is the measured rate of a large matrix product.",
    "recalled_failure_rate": "The failure rate is Llama 3's; this machine's own was not measured.",
    "pue_assumed": "Energy includes cooling by an assumed PUE.",
    "queueing_not_counted": "Time in the queue is not counted, also not between the segments of a run.",
    "asynchronous_checkpoints": "Checkpoints are copied to host memory and written in the background.",
    "optimum_checkpoint_interval": "Checkpoints at the interval of Daly 2006.",
}


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One remark. `code` is a key of ADVICE_TEXT, `parameters` fill its template."""

    code: str
    severity: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("advice.code", self.code, ADVICE_TEXT)
        check_choice("advice.severity", self.severity, SEVERITIES)
        try:
            ADVICE_TEXT[self.code].format(**self.parameters)
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidInput("advice.parameters", self.parameters, f"those of the template: {error}") from None

    @property
    def text(self) -> str:
        """The remark in English."""
        return ADVICE_TEXT[self.code].format(**self.parameters)

    @property
    def source(self) -> str | None:
        """Where the rule comes from; None if it follows from the estimate itself."""
        return ADVICE_SOURCE.get(self.code)

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "severity": self.severity, "parameters": dict(self.parameters)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Advice":
        mapping = check_mapping("advice", data)
        check_keys("advice", mapping, known=("code", "severity", "parameters"), required=("code", "severity"))
        return cls(**mapping)  # type: ignore[arg-type] # checked in __post_init__
