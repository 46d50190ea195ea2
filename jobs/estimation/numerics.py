"""Depth and precision of a model, and shapes that kernels like: remarks with reasons, never errors.

The rule for rounding errors is this project's own, measured on a random residual network (tests/estimation/
test_numerics.py measures it again): pre-norm blocks, two residual additions a layer, every tensor rounded to its
format, relative error after the last norm, forward only. A planning heuristic, no prediction of the loss. That the
identity path decides agrees with Cheng and Chen 2022 (arXiv 2207.10083) and He 2016 (arXiv 1603.05027).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, exp, log, sqrt
from typing import Any, Final

from jobs.estimation.advice import Advice
from jobs.estimation.architecture import Architecture
from jobs.estimation.hardware import PRECISIONS, Machine
from jobs.estimation.plan import ParallelPlan
from jobs.estimation.validation import check_choice, check_integer, check_number
from jobs.estimation.workload import Workload

# Half a unit in the last place: 2^-(significant bits).
ROUNDING_UNIT: Final[Mapping[str, float]] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
# Of the operands of a product: FP8 E4M3 has 4 significant bits, FP4 E2M1 has 2; scales taken as ideal.
PRODUCT_UNIT: Final[Mapping[str, float]] = {"fp8": 2.0**-4, "fp4": 2.0**-2}
STREAM_FACTOR: Final = 0.62
"""Error / (u sqrt(L)) with a residual stream in the blocks' own 16-bit format."""
BLOCK_FACTOR: Final = 0.88
"""Error / u with a residual stream in fp32, at any depth."""
PRODUCT_FACTOR: Final = 0.70
"""Error / u of quantised operands, at any depth; adds to the others in quadrature."""
LARGEST_ERROR: Final = 2e-2

# Levine 2020 (arXiv 2006.12467), eq. 10: ln d = a + b L at the best depth, with N = 12 L d^2. Fitted on 6 to 48 layers.
LEVINE_INTERCEPT: Final = 5.039
LEVINE_SLOPE: Final = 0.0555
LEVINE_LEAST_LAYERS: Final = 6
TOO_DEEP_RATIO: Final = 1.15
WIDTH_PER_LAYER: Final = (20.0, 400.0)
DEEP_LAYERS: Final = 64
"""From here on reports mention special care: Pangu Ultra (94 layers, arXiv 2504.07866), DeepNorm (2203.00555)."""

# Tensor cores read 128 bytes at a time, tiles are 128 wide: NVIDIA's matrix multiplication guide; Anthony 2024
# (arXiv 2401.14489) measured up to 39 % between good and bad shapes.
SHAPE_MULTIPLE: Final = 64
SMALL_VOCABULARY: Final = 1024
"""Of characters or bytes: its output projection is too small to matter."""

VOCABULARY_MULTIPLE: Final = 128
# nanoGPT's GPT-2 124M ran 25 % faster with 50,304 instead of 50,257 words (its head is 31 % of the FLOP), so a product
# with an odd width takes 1 + 0.25/0.31 times as long; an upper bound, since newer libraries handle it better.
ODD_WIDTH_SLOWDOWN: Final = 0.8

_GIB: Final = 2**30


def solve_best_depth(block_parameters: float) -> float:
    """Layers that suit `block_parameters` (all but embeddings) best by Levine's fit: 12 L exp(2 (a + b L)) = N.

    Newton's method on ln L + 2 b L = ln(N / 12) - 2 a, whose left side rises and is concave: 1 < L is a safe start.
    """
    check_number("block_parameters", block_parameters, minimum=1.0, maximum=1e18)
    target = log(block_parameters / 12) - 2 * LEVINE_INTERCEPT
    depth = exp(min(target, 0.0))
    for _ in range(60):
        step = (target - log(depth) - 2 * LEVINE_SLOPE * depth) / (1 / depth + 2 * LEVINE_SLOPE)
        depth = max(depth + step, depth / 2)
        if abs(step) < 1e-10 * depth:
            break
    return depth


def estimate_rounding_error(*, layers: int, precision: str, fp32_residual_stream: bool = False) -> float:
    """Relative error of the last hidden state by rounding (see the module)."""
    check_integer("layers", layers, minimum=1, maximum=10**6)
    check_choice("precision", precision, PRECISIONS)
    unit = ROUNDING_UNIT.get(precision, ROUNDING_UNIT["bf16"])
    stream = BLOCK_FACTOR * unit
    if not fp32_residual_stream:
        stream = max(STREAM_FACTOR * unit * sqrt(layers), stream)
    product = PRODUCT_FACTOR * PRODUCT_UNIT.get(precision, 0.0)
    return sqrt(stream**2 + product**2)


@dataclass(frozen=True, kw_only=True)
class DepthCard:
    """What the card "depth and precision" of a plan shows.

    `best_layers` is Levine's optimum for the size, `depth_ratio` the layers over it. `depth_threshold` is log3 of the
    width: below it each layer adds most (Levine 2020). Errors are `estimate_rounding_error`'s.
    """

    parameters: int
    layers: int
    hidden_size: int
    width_per_layer: float
    depth_threshold: float
    best_layers: float
    depth_ratio: float
    is_too_deep: bool
    precision: str
    fp32_residual_stream: bool
    rounding_error: float
    rounding_error_fp32_stream: float
    largest_error: float
    fp32_stream_extra_bytes: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe_depth(
    *,
    parameters: int,
    block_parameters: float,
    layers: int,
    hidden_size: int,
    precision: str,
    fp32_residual_stream: bool = False,
    largest_error: float = LARGEST_ERROR,
    fp32_stream_extra_bytes: float = 0.0,
) -> DepthCard:
    """The card from plain numbers; `block_parameters` are those of the layers' matrices (12 L d^2 in GPT)."""
    check_integer("parameters", parameters, minimum=1, maximum=10**18)
    check_integer("hidden_size", hidden_size, minimum=1, maximum=10**9)
    check_number("largest_error", largest_error, minimum=1e-9, maximum=1.0)
    best = solve_best_depth(block_parameters)
    error = estimate_rounding_error(layers=layers, precision=precision, fp32_residual_stream=fp32_residual_stream)
    return DepthCard(
        parameters=parameters,
        layers=layers,
        hidden_size=hidden_size,
        width_per_layer=hidden_size / layers,
        depth_threshold=log(hidden_size) / log(3),
        best_layers=best,
        depth_ratio=layers / best,
        is_too_deep=layers > TOO_DEEP_RATIO * max(best, LEVINE_LEAST_LAYERS),
        precision=precision,
        fp32_residual_stream=fp32_residual_stream,
        rounding_error=error,
        rounding_error_fp32_stream=estimate_rounding_error(
            layers=layers, precision=precision, fp32_residual_stream=True
        ),
        largest_error=largest_error,
        fp32_stream_extra_bytes=fp32_stream_extra_bytes,
    )


def fp32_stream_extra_bytes(workload: Workload, plan: ParallelPlan) -> float:
    """Memory that a residual stream in fp32 takes more on the first pipeline stage: 4 instead of 2 bytes a number.

    Kept are the inputs of both norms of a layer, or of the layer only where it is recomputed, for each micro-batch in
    flight (at most the number of stages, Korthikanti 2022, arXiv 2205.05198, 4.2.3). Sequence parallelism splits them.
    """
    if workload.precision == "fp32":
        return 0.0
    arch = workload.architecture
    tokens = plan.micro_batch_size * workload.sequence_length / plan.context_parallel
    if plan.sequence_parallel:
        tokens /= plan.tensor_parallel
    layers = ceil(arch.num_layers / plan.pipeline_parallel)
    recomputed = layers if plan.recomputation == "full" else 0
    if recomputed and plan.recomputed_layers:
        recomputed = min(plan.recomputed_layers, layers)
    kept = 2 * (layers - recomputed) + recomputed
    micro_batches = max(1, workload.global_batch_size // (plan.data_parallel * plan.micro_batch_size))
    in_flight = min(plan.pipeline_parallel, micro_batches)
    return 2.0 * tokens * arch.hidden_size * kept * in_flight


def describe_numerics(
    workload: Workload,
    plan: ParallelPlan,
    *,
    fp32_residual_stream: bool = False,
    largest_error: float = LARGEST_ERROR,
) -> DepthCard:
    """The card of a workload and plan. Layers of an encoder-decoder are those of one stack; experts count if active."""
    arch = workload.architecture
    layers = max(arch.num_hidden_layers, arch.encoder_layers)
    return describe_depth(
        parameters=arch.parameters,
        block_parameters=arch.num_layers * arch.layer_matmul_parameters,
        layers=layers,
        hidden_size=arch.hidden_size,
        precision=workload.precision,
        fp32_residual_stream=fp32_residual_stream,
        largest_error=largest_error,
        fp32_stream_extra_bytes=fp32_stream_extra_bytes(workload, plan),
    )


def review_depth(card: DepthCard) -> list[Advice]:
    """Remarks on depth and on rounding in the residual stream."""
    advice = []
    if card.is_too_deep:
        parameters: dict[str, Any] = {
            "layers": card.layers,
            "optimum": card.best_layers,
            "ratio": card.depth_ratio,
        }
        advice.append(Advice(code="model_too_deep", severity="warning", parameters=parameters))
    low, high = WIDTH_PER_LAYER
    if not low <= card.width_per_layer <= high:
        parameters = {"ratio": card.width_per_layer, "low": low, "high": high}
        advice.append(Advice(code="unusual_width_per_layer", severity="warning", parameters=parameters))
    is_reduced = card.precision in PRODUCT_UNIT
    stream = estimate_rounding_error(
        layers=card.layers,
        precision="bf16" if is_reduced else card.precision,
        fp32_residual_stream=card.fp32_residual_stream,
    )
    if stream > card.largest_error and not card.fp32_residual_stream:
        parameters = {
            "layers": card.layers,
            "error": card.rounding_error,
            "error_fp32": card.rounding_error_fp32_stream,
        }
        advice.append(Advice(code="low_precision_residual_stream", severity="warning", parameters=parameters))
        if card.fp32_stream_extra_bytes:
            parameters = {"extra_gib": card.fp32_stream_extra_bytes / _GIB}
            advice.append(Advice(code="fp32_residual_stream_memory", severity="info", parameters=parameters))
    if is_reduced:
        error = PRODUCT_FACTOR * PRODUCT_UNIT[card.precision]
        parameters = {"precision": card.precision.upper(), "error": error}
        advice.append(Advice(code="low_precision_blocks", severity="info", parameters=parameters))
    if card.layers >= DEEP_LAYERS:
        parameters = {"layers": card.layers}
        advice.append(Advice(code="depth_scaled_initialisation", severity="info", parameters=parameters))
    return advice


def requires_loss_scaling(workload: Workload) -> bool:
    """fp16's exponent has 5 bits: gradients below 6e-8 vanish without a scaled loss (Micikevicius 2018, 1710.03740)."""
    return workload.precision == "fp16"


def review_numerics(
    workload: Workload,
    plan: ParallelPlan,
    machine: Machine,
    *,
    fp32_residual_stream: bool = False,
    largest_error: float = LARGEST_ERROR,
) -> list[Advice]:
    """All remarks on depth, precision and shapes; none is an error."""
    card = describe_numerics(workload, plan, fp32_residual_stream=fp32_residual_stream, largest_error=largest_error)
    advice = review_depth(card)
    if requires_loss_scaling(workload):
        has_bf16 = "bf16" in machine.accelerator.peak_flop_per_s
        severity = "warning" if has_bf16 else "info"
        advice.append(Advice(code="fp16_needs_loss_scaling", severity=severity))
        if has_bf16:
            advice.append(Advice(code="prefer_bf16", severity="info"))
    return advice + review_shapes(workload, plan)


# -- shapes


def pad_vocabulary(vocab_size: int, *, tensor_parallel: int = 1, multiple: int = VOCABULARY_MULTIPLE) -> int:
    """Rows after padding to `multiple` x `tensor_parallel`, as Megatron-LM does (make-vocab-size-divisible-by)."""
    check_integer("vocab_size", vocab_size, minimum=1, maximum=10**9)
    check_integer("tensor_parallel", tensor_parallel, minimum=1, maximum=10**6)
    unit = multiple * tensor_parallel
    return -(-vocab_size // unit) * unit


def share_of_head(workload: Workload) -> float:
    """Share of the output projection in the FLOP of matrix products a token."""
    arch = workload.architecture
    return arch.vocab_size * arch.hidden_size / arch.matmul_parameters


def review_shapes(workload: Workload, plan: ParallelPlan) -> list[Advice]:
    """Widths on a device that are no multiple of 64, and a vocabulary that should be padded."""
    arch = workload.architecture
    split = plan.tensor_parallel
    sizes = _list_widths(arch, split)
    advice = []
    for dimension, size in sizes.items():
        if size % SHAPE_MULTIPLE and size > SHAPE_MULTIPLE:
            parameters: dict[str, Any] = {
                "dimension": dimension,
                "size": size,
                "multiple": SHAPE_MULTIPLE,
                "better": -(-size // SHAPE_MULTIPLE) * SHAPE_MULTIPLE,
            }
            advice.append(Advice(code="shape_not_aligned", severity="info", parameters=parameters))
    # Megatron Core pads by itself.
    if (
        workload.framework != "megatron"
        and arch.vocab_size > SMALL_VOCABULARY
        and arch.vocab_size % (SHAPE_MULTIPLE * split)
    ):
        share = share_of_head(workload)
        slow = ODD_WIDTH_SLOWDOWN * share
        parameters = {
            "size": arch.vocab_size,
            "better": pad_vocabulary(arch.vocab_size, tensor_parallel=split),
            "multiple": VOCABULARY_MULTIPLE * split,
            "share_percent": 100 * share,
            "saving_percent": 100 * slow / (1 + slow),
        }
        advice.append(Advice(code="pad_vocabulary", severity="info", parameters=parameters))
    return advice


def _list_widths(arch: Architecture, split: int) -> dict[str, int]:
    """Widths of the matrices on one tensor-parallel rank."""
    widths = {"hidden_size": arch.hidden_size, "head_dim": arch.head_dim}
    if arch.num_dense_layers or arch.encoder_layers:
        widths["intermediate_size"] = -(-arch.intermediate_size // split)
    if arch.is_moe:
        # Experts are spread whole where expert parallelism is used; a split of their own is not planned.
        widths["expert_intermediate_size"] = arch.expert_intermediate_size
    return widths
