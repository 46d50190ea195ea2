"""From a step to a whole run: days, accelerator-hours, energy and cost, with failures and partition time limits.

The expected time is exact for failures that come at random (Poisson) and hit training, checkpoints and restarts alike:
Daly 2006 (doi 10.1016/j.future.2004.11.016), section 4. One period of tau seconds of work and a stall of s seconds,
whose checkpoint is safe d seconds after the stall (0 if written synchronously), takes

    M exp((R + d) / M) (exp((tau + s) / M) - 1)

seconds in the mean, M being the mean time between stops and R that of a restart. d > 0 is an extension of this module:
until the first checkpoint after a restart the period is d longer, which has the same effect as a restart d longer.
To first order the loss is s/tau + (tau/2 + s/2 + d + R)/M: the lost work tau/2 counts as much as the stalls.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, exp, expm1, log, sqrt
from typing import Any, Final

from jobs.estimation.advice import Advice
from jobs.estimation.hardware import DEFAULT_MTBF_HOURS_PER_DEVICE, Machine
from jobs.estimation.validation import InvalidInput, check_choice, check_integer, check_number
from jobs.estimation.workload import Workload

MANUAL_RESTART_S: Final = 9180.0
"""A restart by hand: 10 min submit, 5 min start, 2 h checking nodes, 10 min save, 8 min load (DLRover's blog on a
job of 1,000 cards; with automation 23 min)."""

MTBF_SPREAD: Final = 3.0
"""P90 / P50 of device-hours per stop over seven published runs on 384 to 16,384 devices (8,090 to 92,160, median
25,080): how far off a failure rate is that was not measured on the machine itself."""

OPERATION_P90: Final = 1.10
"""BLOOM lost 10 % of its time, of which failures and checkpoints explain 1.5 %: hangs, evaluations, slow nodes."""

SLOW_GOODPUT: Final = 0.9
LOSSES: Final = ("checkpoints", "restarts", "rework", "segments")

_LEAST_GOODPUT: Final = 0.01
_LEAST_INTERVAL_S: Final = 1.0
_Z90: Final = 1.2815515655446004
_HOUR_S: Final = 3600.0
# exp() of more than this is so far from 1 that exp(x) - 1 = exp(x) in double precision.
_LARGE_EXPONENT: Final = 37.0

# FLOP a parameter and token of the rule of thumb: 2 forward, 4 backward (Kaplan 2020, arXiv 2001.08361, 2.1), and the
# forward pass once more with full recomputation (Narayanan 2021, arXiv 2104.04473, 3.5). Selective recomputation
# repeats attention only, which the rule leaves out.
RULE_FLOP: Final[Mapping[str, float]] = {"none": 6.0, "selective": 6.0, "full": 8.0}


def compute_young_interval(*, write_s: float, mtbf_s: float) -> float:
    """Seconds between checkpoints, sqrt(2 C M): Young 1974 (doi 10.1145/361147.361115)."""
    return sqrt(2 * write_s * mtbf_s)


def compute_checkpoint_interval(*, write_s: float, mtbf_s: float, stall_s: float | None = None) -> float:
    """Seconds of work between checkpoints that lose least time (Daly 2006, eq. 37).

    Young's first-order sqrt(2 C M) with Daly's higher-order terms; M where a checkpoint takes longer than 2 M. Only
    the stall counts as cost: with asynchronous checkpoints `stall_s` is shorter than `write_s`, but one write must end
    before the next begins.
    """
    stall = write_s if stall_s is None else stall_s
    if stall >= 2 * mtbf_s:
        return max(mtbf_s, write_s - stall)
    ratio = stall / (2 * mtbf_s)
    interval = compute_young_interval(write_s=stall, mtbf_s=mtbf_s) * (1 + sqrt(ratio) / 3 + ratio / 9) - stall
    return max(interval, write_s, _LEAST_INTERVAL_S)


def compute_goodput(
    *, write_s: float, interval_s: float, mtbf_s: float, restart_s: float, stall_s: float | None = None
) -> float:
    """Share of the time that is progress, from 0.01 (where the formula says less) to 1; see the module for the formula.

    `stall_s` is how long a checkpoint stops training; None means as long as writing it takes (synchronous).
    """
    stall = write_s if stall_s is None else stall_s
    period = (interval_s + stall) / mtbf_s
    log_growth = period if period > _LARGE_EXPONENT else log(expm1(period))
    log_share = log(interval_s / mtbf_s) - (restart_s + write_s - stall) / mtbf_s - log_growth
    return max(_LEAST_GOODPUT, min(1.0, exp(log_share)))


def compute_time_deviation(
    *, work_s: float, interval_s: float, stall_s: float, mtbf_s: float, restart_s: float
) -> float:
    """Standard deviation of the run's time over its mean, by the randomness of failures alone.

    A period is tried a geometric number of times; the time lost in a try is an exponential one cut off at the period's
    length, and a restart is itself retried until it gets through. The variance of such sums is closed.
    """
    periods = max(work_s / interval_s, 1.0)
    length = interval_s + stall_s
    x, a = length / mtbf_s, restart_s / mtbf_s
    if max(x, a) > _LARGE_EXPONENT:
        return 1 / sqrt(periods)
    tries = expm1(x)
    lost = mtbf_s - length / tries
    lost_variance = 2 * mtbf_s**2 - (length**2 + 2 * mtbf_s * length) / tries - lost**2
    restart = mtbf_s * expm1(a)
    restart_variance = mtbf_s**2 * (exp(2 * a) - 2 * a * exp(a) - 1)
    variance = tries * (max(lost_variance, 0.0) + max(restart_variance, 0.0))
    variance += tries * (tries + 1) * (lost + restart) ** 2
    mean = length + tries * (lost + restart)
    return sqrt(variance / periods) / mean


@dataclass(frozen=True, kw_only=True)
class SegmentPlan:
    """How a run is cut by a partition's time limit. `segments` is None if no segment gets anything done."""

    time_limit_s: float
    segments: int | None
    useful_s: float
    """Time in a segment that trains or writes regular checkpoints."""
    lost_s_per_segment: float
    """Start, and final checkpoint on the signal before the end (or, without one, half a checkpoint interval)."""
    lost_s: float
    """Over the whole run, the first start not counted."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_segments(
    *,
    running_s: float,
    time_limit_s: float,
    start_s: float,
    write_s: float,
    interval_s: float,
    has_final_checkpoint: bool = True,
) -> SegmentPlan:
    """Cut `running_s` of expected time into scheduler jobs of at most `time_limit_s`; time in the queue not counted.

    Each segment starts anew (`start_s`: launch and load). With a final checkpoint it is warned in time (Slurm's
    `--signal`) and loses the time to write; without one it loses half an interval in the mean.
    """
    check_number("time_limit_s", time_limit_s, minimum=1.0, maximum=1e12)
    final_s = write_s if has_final_checkpoint else min(interval_s, max(time_limit_s - start_s, 0.0)) / 2
    lost = start_s + final_s
    useful = time_limit_s - lost
    if running_s <= time_limit_s - start_s:
        return SegmentPlan(time_limit_s=time_limit_s, segments=1, useful_s=running_s, lost_s_per_segment=lost, lost_s=0)
    segments = ceil(running_s / useful - 1e-9) if useful > 0 else None
    return SegmentPlan(
        time_limit_s=time_limit_s,
        segments=segments,
        useful_s=max(useful, 0.0),
        lost_s_per_segment=lost,
        lost_s=0.0 if segments is None else (segments - 1) * lost,
    )


@dataclass(frozen=True, kw_only=True)
class RunTotal:
    """What a whole run takes. `duration_s` is expected wall-clock time without queueing.

    `duration_s` = `work_s` + the sum of `losses_s`. P10 and P90 combine the step time's range, the randomness of
    failures, and (unless the centre has measured it) the uncertainty of the failure rate. `energy_j` is what the
    accelerators draw, times the machine's PUE, without hosts, network and storage. `price` is None without a price.
    """

    steps: int
    devices: int
    work_s: float
    duration_s: float
    duration_p10_s: float
    duration_p90_s: float
    losses_s: Mapping[str, float]
    goodput: float
    mtbf_s: float
    expected_stops: float
    checkpoint_interval_s: float
    checkpoint_stall_s: float
    accelerator_s: float
    energy_j: float
    price: float | None
    segments: SegmentPlan | None

    @property
    def days(self) -> float:
        return self.duration_s / 86_400

    @property
    def accelerator_hours(self) -> float:
        return self.accelerator_s / _HOUR_S

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"losses_s": dict(self.losses_s)}


def compute_run_total(
    workload: Workload,
    machine: Machine,
    *,
    step_s: float,
    devices: int,
    write_s: float,
    stall_s: float | None = None,
    interval_s: float | None = None,
    step_p10: float = 1.0,
    step_p90: float = 1.0,
    mtbf_spread: float | None = None,
    time_limit_s: float | None = None,
    has_final_checkpoint: bool = True,
    power_utilisation: float = 1.0,
) -> RunTotal:
    """Days, accelerator-seconds, energy and price of `workload` at `step_s` seconds a step on `devices`.

    `write_s` is the time to write a checkpoint, `stall_s` how long that stops training (None: all of it), `interval_s`
    the work between checkpoints (None: Daly's optimum). `step_p10` and `step_p90` are the range of the step time over
    the estimate. `mtbf_spread` is P90 / P50 of the failure rate; None is 1 where the machine states its own, else
    MTBF_SPREAD. `power_utilisation` is the mean draw over the rated power. Raises InvalidInput.
    """
    bounds = {
        "step_s": (step_s, 1e-9, 1e9),
        "write_s": (write_s, 0.0, 1e12),
        "stall_s": (0.0 if stall_s is None else stall_s, 0.0, write_s),
        "interval_s": (_LEAST_INTERVAL_S if interval_s is None else interval_s, 1e-3, 1e12),
        "step_p10": (step_p10, 1e-3, 1.0),
        "step_p90": (step_p90, 1.0, 1e3),
        "mtbf_spread": (1.0 if mtbf_spread is None else mtbf_spread, 1.0, 1e3),
        "power_utilisation": (power_utilisation, 0.0, 1.5),
    }
    check_integer("devices", devices, minimum=1, maximum=10**7)
    for name, (value, low, high) in bounds.items():
        check_number(name, value, minimum=low, maximum=high)
    if mtbf_spread is None:
        is_own_rate = machine.mtbf_hours_per_device != DEFAULT_MTBF_HOURS_PER_DEVICE
        mtbf_spread = 1.0 if is_own_rate else MTBF_SPREAD
    stall = write_s if stall_s is None else stall_s
    mtbf_s = _HOUR_S * machine.mtbf_hours_per_device / devices
    restart_s = machine.restart_s
    if interval_s is None:
        interval_s = compute_checkpoint_interval(write_s=write_s, mtbf_s=mtbf_s, stall_s=stall)
    rates = {"write_s": write_s, "stall_s": stall, "interval_s": interval_s, "restart_s": restart_s}
    work_s = workload.steps * step_s
    goodput = compute_goodput(**rates, mtbf_s=mtbf_s)
    running_s = work_s / goodput
    segments = None
    if time_limit_s is not None:
        segments = plan_segments(
            running_s=running_s,
            time_limit_s=time_limit_s,
            start_s=restart_s,
            write_s=write_s,
            interval_s=interval_s,
            has_final_checkpoint=has_final_checkpoint,
        )
    losses = _split_losses(work_s=work_s, running_s=running_s, mtbf_s=mtbf_s, **rates)
    losses["segments"] = 0.0 if segments is None else segments.lost_s
    duration_s = running_s + losses["segments"]
    deviation = compute_time_deviation(
        work_s=work_s, interval_s=interval_s, stall_s=stall, mtbf_s=mtbf_s, restart_s=restart_s + write_s - stall
    )
    fewer = goodput / compute_goodput(**rates, mtbf_s=mtbf_s * mtbf_spread)
    more = goodput / compute_goodput(**rates, mtbf_s=mtbf_s / mtbf_spread)
    below = sqrt(log(step_p10) ** 2 + log(min(fewer, 1.0)) ** 2 + (_Z90 * deviation) ** 2)
    above = sqrt(log(step_p90) ** 2 + log(max(more, 1.0)) ** 2 + (_Z90 * deviation) ** 2 + log(OPERATION_P90) ** 2)
    accelerator_s = devices * duration_s
    hourly = machine.price_per_device_hour
    return RunTotal(
        steps=workload.steps,
        devices=devices,
        work_s=work_s,
        duration_s=duration_s,
        # Nothing makes a run shorter than its steps at their fastest.
        duration_p10_s=max(duration_s * exp(-below), min(work_s * step_p10, duration_s)),
        duration_p90_s=duration_s * exp(above),
        losses_s=losses,
        goodput=work_s / duration_s,
        mtbf_s=mtbf_s,
        expected_stops=running_s / mtbf_s,
        checkpoint_interval_s=interval_s,
        checkpoint_stall_s=stall,
        accelerator_s=accelerator_s,
        energy_j=accelerator_s * machine.accelerator.tdp_w * power_utilisation * machine.pue,
        price=None if hourly is None else hourly * accelerator_s / _HOUR_S,
        segments=segments,
    )


def _split_losses(
    *,
    work_s: float,
    running_s: float,
    stall_s: float,
    interval_s: float,
    restart_s: float,
    mtbf_s: float,
    write_s: float,
) -> dict[str, float]:
    """What the time beyond `work_s` goes into, but for the segments.

    There are running_s / M stops (Wald), each followed by M (1 - exp(-R/M)) seconds of restart in the mean, since a
    restart may be stopped, too. What is left is work and stalls done twice.
    """
    del write_s  # part of the same rates, but its share is in the rework
    lost = running_s - work_s
    checkpoints = min(work_s / interval_s * stall_s, lost)
    restarts = min(-running_s * expm1(-restart_s / mtbf_s), lost - checkpoints)
    return {"checkpoints": checkpoints, "restarts": restarts, "rework": lost - checkpoints - restarts}


def review_run(total: RunTotal) -> list[Advice]:
    """Remarks on the whole run: low goodput, and a time limit that costs much or stops all progress."""
    advice = []
    running = total.work_s / (total.duration_s - total.losses_s["segments"])
    if running < SLOW_GOODPUT:
        parameters: dict[str, Any] = {"goodput_percent": 100 * running}
        advice.append(Advice(code="low_goodput", severity="warning", parameters=parameters))
    segments = total.segments
    if segments is None:
        return advice
    limit = {"limit_hours": segments.time_limit_s / _HOUR_S}
    if segments.segments is None:
        parameters = {**limit, "lost_hours": segments.lost_s_per_segment / _HOUR_S}
        advice.append(Advice(code="time_limit_too_short", severity="warning", parameters=parameters))
    elif segments.segments > 1:
        parameters = {**limit, "segments": segments.segments, "lost_hours": segments.lost_s / _HOUR_S}
        severity = "warning" if segments.lost_s > (1 - SLOW_GOODPUT) * total.duration_s else "info"
        advice.append(Advice(code="run_in_segments", severity=severity, parameters=parameters))
    return advice


# -- the rule of thumb, and questions asked the other way round


@dataclass(frozen=True, kw_only=True)
class RuleEstimate:
    """A run by 6ND or 8ND alone. `flop` are hardware FLOP; with full recomputation a third more than `model_flop`."""

    model_flop: float
    flop: float
    duration_s: float
    accelerator_s: float

    @property
    def days(self) -> float:
        return self.duration_s / 86_400


def estimate_by_rule(
    *, active_parameters: float, tokens: float, devices: int, flop_per_s_per_device: float, recomputation: str = "none"
) -> RuleEstimate:
    """Days by 6ND, or 8ND with full recomputation (RULE_FLOP).

    `active_parameters` are those a token passes (of a mixture of experts not all). `flop_per_s_per_device` is the rate
    that devices reach, in hardware FLOP: what BLOOM's logs, OPT and Megatron 2021 print. A rate of *model* FLOP goes
    with recomputation "none" whatever the run does; mixing the two errs by a third.
    """
    check_number("active_parameters", active_parameters, minimum=1.0, maximum=1e18)
    check_number("tokens", tokens, minimum=1.0, maximum=1e18)
    check_integer("devices", devices, minimum=1, maximum=10**7)
    check_number("flop_per_s_per_device", flop_per_s_per_device, minimum=1.0, maximum=1e20)
    check_choice("recomputation", recomputation, RULE_FLOP)
    flop = RULE_FLOP[recomputation] * active_parameters * tokens
    accelerator_s = flop / flop_per_s_per_device
    return RuleEstimate(
        model_flop=RULE_FLOP["none"] * active_parameters * tokens,
        flop=flop,
        duration_s=accelerator_s / devices,
        accelerator_s=accelerator_s,
    )


def compute_mfu_by_rule(
    *, active_parameters: float, tokens: float, accelerator_s: float, peak_flop_per_s: float
) -> float:
    """Model FLOP utilisation of a finished run by 6ND (PaLM, arXiv 2204.02311, appendix B, without attention)."""
    check_number("accelerator_s", accelerator_s, minimum=1e-9, maximum=1e20)
    check_number("peak_flop_per_s", peak_flop_per_s, minimum=1.0, maximum=1e20)
    return RULE_FLOP["none"] * active_parameters * tokens / (accelerator_s * peak_flop_per_s)


def compute_tokens_for_budget(
    *,
    tokens_per_s_per_device: float,
    goodput: float = 1.0,
    accelerator_s: float | None = None,
    price: float | None = None,
    price_per_device_hour: float | None = None,
) -> float:
    """Tokens that a budget trains on: of accelerator-seconds, or of money at a price an accelerator-hour."""
    check_number("tokens_per_s_per_device", tokens_per_s_per_device, minimum=0.0, maximum=1e12)
    check_number("goodput", goodput, minimum=0.0, maximum=1.0)
    if (accelerator_s is None) == (price is None):
        raise InvalidInput("accelerator_s", accelerator_s, "either accelerator_s or price, not both")
    if accelerator_s is None:
        budget = check_number("price", price, minimum=0.0, maximum=1e15)
        hourly = check_number("price_per_device_hour", price_per_device_hour, minimum=1e-9, maximum=1e9)
        accelerator_s = budget / hourly * _HOUR_S
    check_number("accelerator_s", accelerator_s, minimum=0.0, maximum=1e20)
    return tokens_per_s_per_device * goodput * accelerator_s


def compute_time_left(*, tokens_left: float, tokens_per_s: float, goodput: float = 1.0) -> float:
    """Seconds that a running job still needs at its measured rate."""
    check_number("tokens_left", tokens_left, minimum=0.0, maximum=1e18)
    check_number("tokens_per_s", tokens_per_s, minimum=1e-12, maximum=1e15)
    check_number("goodput", goodput, minimum=_LEAST_GOODPUT, maximum=1.0)
    return tokens_left / (tokens_per_s * goodput)


def compute_required_tokens_per_s(*, tokens: float, time_left_s: float, goodput: float = 1.0) -> float:
    """The rate that ends in time."""
    check_number("tokens", tokens, minimum=0.0, maximum=1e18)
    check_number("time_left_s", time_left_s, minimum=1.0, maximum=1e12)
    check_number("goodput", goodput, minimum=_LEAST_GOODPUT, maximum=1.0)
    return tokens / (time_left_s * goodput)


def count_devices_by_rule(
    *, active_parameters: float, tokens: float, time_left_s: float, flop_per_s_per_device: float, goodput: float = 1.0
) -> int:
    """Devices that finish in time by 6ND: a first guess, since the rate itself falls with the number of devices."""
    rule = estimate_by_rule(
        active_parameters=active_parameters,
        tokens=tokens,
        devices=1,
        flop_per_s_per_device=flop_per_s_per_device,
    )
    check_number("time_left_s", time_left_s, minimum=1.0, maximum=1e12)
    check_number("goodput", goodput, minimum=_LEAST_GOODPUT, maximum=1.0)
    return max(1, ceil(rule.accelerator_s / (time_left_s * goodput) * (1 - 1e-12)))
