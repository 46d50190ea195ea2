"""Is the amount of data, the batch and the number of steps sensible? Remarks, never errors."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from jobs.estimation.advice import Advice
from jobs.estimation.validation import check_number
from jobs.estimation.workload import Workload

OPTIMAL_TOKENS_PER_PARAMETER: Final = 20.0
"""Hoffmann 2022 (arXiv 2203.15556), table 3, for dense models; of a mixture of experts the active parameters count."""
FEW_TOKENS_PER_PARAMETER: Final = 10.0
MANY_TOKENS_PER_PARAMETER: Final = 1000.0
"""Beyond Llama 3 8B's 1,900 little is published; from here on the remark that it is a choice for serving."""
MANY_EPOCHS: Final = 4.0
"""Muennighoff 2023 (arXiv 2305.16264): up to four epochs are nearly as good as new data."""
FEW_STEPS: Final = 1000

# Critical batch in tokens = c D^e. Bergsma 2025 (arXiv 2505.13738): 0.0471 D^0.462 sequences of 2,048 tokens, on models
# up to 3.3B. Zhang 2024 (arXiv 2410.21676) finds the same exponent to 2 %; both no dependence on model size.
# The level depends on how "critical" is defined and may be off by a factor of two; the coefficient is recalled.
CRITICAL_BATCH_COEFFICIENT: Final = 0.0471 * 2048
CRITICAL_BATCH_EXPONENT: Final = 0.462

_PRETRAINING: Final = ("pretraining", "continued_pretraining")


def estimate_critical_batch_tokens(tokens: float) -> float:
    """Batch in tokens at which a run of `tokens` needs twice the tokens that tiny batches would.

    Larger batches save steps but cost data: tokens needed = (1 + B / B_crit) x the least (McCandlish 2018, arXiv
    1812.06162, eq. 2.7). Limits: one epoch, Adam, dense models below 4B parameters; extrapolated above.
    """
    check_number("tokens", tokens, minimum=1.0, maximum=1e18)
    return float(CRITICAL_BATCH_COEFFICIENT * tokens**CRITICAL_BATCH_EXPONENT)


@dataclass(frozen=True, kw_only=True)
class TrainingCard:
    """Data and batch in relation to the model. `extra_tokens_share` is what the batch costs over a tiny one."""

    tokens: int
    active_parameters: int
    tokens_per_parameter: float
    optimal_tokens: float
    batch_tokens: int
    critical_batch_tokens: float
    extra_tokens_share: float
    steps: int
    epochs: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe_training(workload: Workload, *, unique_tokens: float | None = None) -> TrainingCard:
    """The card of a workload; `unique_tokens` are those of the data set, if some are seen more than once."""
    if unique_tokens is not None:
        check_number("unique_tokens", unique_tokens, minimum=1.0, maximum=1e18)
    active = workload.architecture.active_parameters
    critical = estimate_critical_batch_tokens(workload.tokens)
    return TrainingCard(
        tokens=workload.tokens,
        active_parameters=active,
        tokens_per_parameter=workload.tokens / active,
        optimal_tokens=OPTIMAL_TOKENS_PER_PARAMETER * active,
        batch_tokens=workload.tokens_per_step,
        critical_batch_tokens=critical,
        extra_tokens_share=workload.tokens_per_step / critical,
        steps=workload.steps,
        epochs=None if unique_tokens is None else workload.tokens / unique_tokens,
    )


def review_training(workload: Workload, *, unique_tokens: float | None = None) -> list[Advice]:
    """Remarks on tokens a parameter, batch, repeated data, steps and sequence length."""
    card = describe_training(workload, unique_tokens=unique_tokens)
    advice = []
    if workload.task == "pretraining":
        parameters: dict[str, Any] = {"tokens_per_parameter": card.tokens_per_parameter}
        if card.tokens_per_parameter < FEW_TOKENS_PER_PARAMETER:
            advice.append(Advice(code="few_tokens_per_parameter", severity="info", parameters=parameters))
        elif card.tokens_per_parameter > MANY_TOKENS_PER_PARAMETER:
            advice.append(Advice(code="many_tokens_per_parameter", severity="info", parameters=parameters))
    if workload.task in _PRETRAINING:
        advice += _review_batch(card)
    if card.epochs is not None and card.epochs > MANY_EPOCHS:
        parameters = {"epochs": card.epochs}
        advice.append(Advice(code="data_repeated", severity="warning", parameters=parameters))
    positions = workload.architecture.max_position_embeddings
    if workload.sequence_length > positions:
        parameters = {"sequence_length": workload.sequence_length, "positions": positions}
        advice.append(Advice(code="sequence_beyond_positions", severity="warning", parameters=parameters))
    return advice


def _review_batch(card: TrainingCard) -> list[Advice]:
    advice = []
    if card.extra_tokens_share > 1:
        parameters: dict[str, Any] = {
            "batch_tokens": float(card.batch_tokens),
            "critical_tokens": card.critical_batch_tokens,
            "extra_percent": 100 * card.extra_tokens_share,
        }
        advice.append(Advice(code="batch_above_critical", severity="warning", parameters=parameters))
    elif card.steps < FEW_STEPS:
        advice.append(Advice(code="few_steps", severity="info", parameters={"steps": card.steps}))
    return advice
