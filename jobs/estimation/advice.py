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
    "outside_validated_range": "No published run of this kind was used to check the estimate; the range is wider.",
}
"""English templates by code; the parameters of `Advice` fill them."""

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

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "severity": self.severity, "parameters": dict(self.parameters)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Advice":
        mapping = check_mapping("advice", data)
        check_keys("advice", mapping, known=("code", "severity", "parameters"), required=("code", "severity"))
        return cls(**mapping)  # type: ignore[arg-type] # checked in __post_init__
