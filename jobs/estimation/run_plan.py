"""The parallel plan of a published run, from the words of its row."""

import math
import re
from dataclasses import replace

from jobs.estimation.architecture import Architecture
from jobs.estimation.hardware import Machine
from jobs.estimation.plan import MAX_DEVICES, ParallelPlan
from jobs.estimation.run_cells import Cells
from jobs.estimation.validation import InvalidInput


def read_plan(
    cells: Cells, architecture: Architecture, machine: Machine, *, framework: str, is_old: bool
) -> tuple[ParallelPlan, bool, bool]:
    """The plan, whether its degrees were printed, and whether its recomputation was."""
    degrees, plan_known = _read_degrees(cells)
    tp, pp, dp, cp = degrees
    virtual = cells.integer("vpp", maximum=2_000) or _assume_virtual_stages(cells, architecture, pp, dp)
    if virtual > 1 and pp == 1:
        cells.assume("vpp", 1, "no pipeline")
        virtual = 1
    zero_stage, zero_group = _read_zero(cells, dp=dp, cp=cp, machine=machine, framework=framework, is_old=is_old)
    recomputation, recomputed_layers, recompute_known = _read_recomputation(cells, architecture, pp)
    zero_text = cells.words("zero_stage_fsdp")
    offload = "none"
    if "offload" in zero_text:
        offload = "optimizer_and_weights" if zero_stage == 3 else "optimizer"
    schedule = f"{cells.words('framework')} {cells.words('notes')}"
    plan = ParallelPlan(
        tensor_parallel=tp,
        pipeline_parallel=pp,
        data_parallel=dp,
        context_parallel=cp,
        expert_parallel=_read_expert_parallel(cells, architecture, machine, ranks=tp * dp * cp),
        virtual_stages=virtual,
        zero_stage=zero_stage,
        zero_group=zero_group,
        micro_batch_size=_read_micro_batch(cells, dp),
        recomputation=recomputation,
        recomputed_layers=recomputed_layers,
        sequence_parallel=_read_sequence_parallel(cells, tp, is_old=is_old),
        pipeline_schedule="zero_bubble" if re.search(r"zero.?bubble|dualpipe|zb-?h", schedule) else "1f1b",
        offload=offload,
    )
    return plan, plan_known, recompute_known


def _assume_virtual_stages(cells: Cells, architecture: Architecture, pp: int, dp: int) -> int:
    """1, but for MLPerf submissions: they interleave as deep as layers and micro-batches allow, and don't print it."""
    batch, micro = cells.integer("global_batch_sequences"), cells.integer("micro_batch") or 1
    layers = architecture.num_hidden_layers
    if pp == 1 or "mlperf" not in cells.words("source") or batch is None or layers % pp:
        return 1
    if batch % (dp * micro) or batch // (dp * micro) % pp:
        return 1
    virtual = next(v for v in (6, 4, 3, 2, 1) if layers // pp % v == 0)
    cells.assume("vpp", virtual, "MLPerf submissions interleave")
    return virtual


def _read_degrees(cells: Cells) -> tuple[tuple[int, int, int, int], bool]:
    """Tensor, pipeline, data and context degrees, which multiply to the devices."""
    given = {name: cells.integer(name, maximum=MAX_DEVICES) for name in ("tp", "pp", "cp")}
    dp = cells.integer("dp", maximum=MAX_DEVICES)
    devices = cells.integer("devices", maximum=MAX_DEVICES)
    is_sharded = bool(re.search(r"fsdp|zero ?-?3|ddp", cells.words("zero_stage_fsdp")))
    known = given["tp"] is not None or given["pp"] is not None or is_sharded or devices == 1
    tp, pp, cp = (given[name] or 1 for name in ("tp", "pp", "cp"))
    product = tp * pp * cp
    if devices is None:
        if dp is None:
            raise InvalidInput("devices", "", "a number: the row prints neither devices nor all degrees")
        devices = product * dp
        cells.assume("devices", devices, "product of the degrees")
    if dp is None:
        if devices % product:
            raise InvalidInput("devices", devices, f"a multiple of tp x pp x cp = {tp} x {pp} x {cp} = {product}")
        dp = devices // product
        cells.assume("dp", dp, "devices / (tp pp cp)")
    if product * dp != devices:
        raise InvalidInput("devices", devices, f"tp x pp x dp x cp = {tp} x {pp} x {dp} x {cp} = {product * dp}")
    for name in ("tp", "pp"):
        if given[name] is None:
            cells.assume(name, 1, "the row says nothing")
    return (tp, pp, dp, cp), known


def _read_zero(cells: Cells, *, dp: int, cp: int, machine: Machine, framework: str, is_old: bool) -> tuple[int, int]:
    """ZeRO stage and the ranks it shards over (0: all)."""
    text = cells.words("zero_stage_fsdp")
    if framework == "mindspore" and "optimizer-parallel" in text:
        # MindSpore's optimizer parallelism shards weights and gradients, too, and gathers what it needs.
        cells.assume("zero_stage", 3, "MindSpore's optimizer parallelism shards the weights")
        return 3, 0
    patterns = (
        (r"zero ?-?([0-3])|stage ?-?([0-3])", None),
        (r"grad_op", 2),
        (r"fsdp|hsdp|full_shard|hybrid", 3),
        (r"dist|optimizer|sharded", 1),
        (r"ddp|none|^no?$|^off$|^-$", 0),
    )
    stage = None
    for pattern, value in patterns:
        found = re.search(pattern, text)
        if found:
            stage = int(found.group(1) or found.group(2)) if value is None else value
            break
    if stage is None:
        stage = {"fsdp": 3, "jax": 3, "native": 0}.get(framework, 0 if is_old and framework == "megatron" else 1)
        cells.assume("zero_stage", stage, f"usual for {framework}" if not text else f"the row says {text}")
    ranks = dp * cp
    found = re.search(r"(?:shard|group|degree|size)[ =:]*(\d+)|fsdp (\d+)\b", text)
    group = int(found.group(1) or found.group(2)) if found else 0
    if re.search(r"hybrid|hsdp", text) and not group:
        group = machine.node_size
    if "in slice" in text:
        group = cells.noted(r"(\d+)-chip slice") or 0
    # FSDP2's mesh shards over data and context ranks together (torchtitan's dp_shard_cp).
    if group in (0, dp) or group >= ranks:
        return stage, 0
    if group == 1:
        return 0, 0
    if ranks % group:
        group = math.gcd(group, ranks)
        cells.assume("zero_group", group, f"the largest part of {text} that divides {ranks} ranks")
    return stage, 0 if group in (1, ranks) else group


def _read_recomputation(cells: Cells, architecture: Architecture, pp: int) -> tuple[str, int, bool]:
    """Recomputation, how many layers of a stage (0: all), and whether the row says so."""
    text = cells.words("recompute")
    if cells.text("recompute").endswith("~"):
        cells.assume("recompute", text, "marked as assumed in the row")
    layers = -(-architecture.num_hidden_layers // pp)
    share = _read_recomputed_share(text)
    some = re.search(r"(\d+)", text)
    count = None
    if share is not None:
        count = math.ceil(layers * share)
    elif some and re.search(r"full|block|layer", text) and "uniform" not in text:
        count = min(int(some.group(1)), layers)
    if count is not None:
        return ("full", 0 if count == layers else count, True) if count else ("none", 0, True)
    if re.search(r"offload", text):
        cells.assume("recompute", "none", "activations go to the host; that traffic is not modelled")
        return "none", 0, True
    if re.search(r"select|gelu|core|attn|attention|norm|act|moe|mla|partial", text):
        return "selective", 0, True
    if re.search(r"full|uniform|^y|true|on$|checkpoint|ckpt|all", text):
        return "full", 0, True
    if re.search(r"none|^no?$|false|off$|^0$", text):
        return "none", 0, True
    if text:
        cells.assume("recompute", "unknown", f"the row says {text}")
    return "none", 0, False


def _read_recomputed_share(text: str) -> float | None:
    """Share of the layers that are recomputed whole, where the words say "1 of 2", "every 2", "selective 2" or 50 %."""
    part = re.search(r"(\d+) ?(?:of|/) ?(\d+)", text)
    if part and int(part.group(2)) > 0 and int(part.group(1)) <= int(part.group(2)):
        return int(part.group(1)) / int(part.group(2))
    every = re.search(r"(?:every|selective[ (]*) ?([1-9]\d*)", text)
    if every:
        return 1 / int(every.group(1))
    percent = re.search(r"(\d+) ?%", text)
    return min(int(percent.group(1)), 100) / 100 if percent else None


def _read_sequence_parallel(cells: Cells, tp: int, *, is_old: bool) -> bool:
    if tp == 1:
        return False
    notes = cells.words("notes")
    if re.search(r"\bno seq(?:uence)?[ -]parallel|sequence_parallel=false", notes):
        return False
    if re.search(r"seq(?:uence)?[ -]parallel|sequence_parallel=true", notes):
        return True
    recomputed = cells.words("recompute").startswith("selective")
    is_on = not is_old or recomputed
    cells.assume("sequence_parallel", is_on, "older software" if not is_on else "usual since mid-2022")
    return is_on


def _read_expert_parallel(cells: Cells, architecture: Architecture, machine: Machine, *, ranks: int) -> int:
    """Expert-parallel ranks; a dense model has none."""
    experts = architecture.num_experts
    given = cells.integer("ep", maximum=MAX_DEVICES) or cells.noted(r"\bEP(\d+)")
    if not experts:
        return 1
    if given is not None:
        if ranks % given:
            fitting = math.gcd(ranks, given)
            cells.assume("ep", fitting, f"the largest part of {given} that divides tp x dp x cp = {ranks}")
            return fitting
        return given
    limit = min(ranks, machine.node_size)
    chosen = max(n for n in range(1, limit + 1) if experts % n == 0 and ranks % n == 0)
    cells.assume("ep", chosen, "most that divides experts and ranks within a node")
    return chosen


def _read_micro_batch(cells: Cells, dp: int) -> int:
    given = cells.integer("micro_batch", maximum=10**6) or cells.noted(r"\b(?:LBS|local batch)[ =]*(\d+)")
    if given is not None:
        return given
    batch = cells.integer("global_batch_sequences")
    steps = read_accumulation(cells)
    if batch and steps and batch % (dp * steps) == 0:
        cells.assume("micro_batch", batch // (dp * steps), "global batch / (dp x accumulation)")
        return batch // (dp * steps)
    cells.assume("micro_batch", 1, "the row says nothing")
    return 1


def read_accumulation(cells: Cells) -> int | None:
    """Micro-batches a step, where the notes print them."""
    return cells.noted(r"\b(?:GAS?|grad-accum)[ =]*(\d+)(?:\.0)?\b") or None


def fit_micro_batch(cells: Cells, plan: ParallelPlan, batch: int) -> ParallelPlan:
    """Micro-batches no larger than a data rank's share of the global batch."""
    share = batch // plan.data_parallel
    if share == 0:
        raise InvalidInput("global_batch_sequences", batch, f"at least dp ({plan.data_parallel})")
    if plan.micro_batch_size <= share:
        return plan
    cells.assume("micro_batch", share, f"{plan.micro_batch_size} x dp {plan.data_parallel} exceed the global batch")
    return replace(plan, micro_batch_size=share)
