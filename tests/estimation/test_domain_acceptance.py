"""What the special issue on compute for large models asks an estimator for: published runs and machines it must give.

Rows A1 to A7; the figures beside them are those of the sources named, or follow from them by the formula in the row.
"""

import pytest

from jobs.estimation.flops import count_flop_6nd, to_pflop_per_s_days, trainable_parameters
from jobs.estimation.hardware import Machine
from jobs.estimation.numerics import describe_depth, describe_numerics, estimate_rounding_error, review_depth
from jobs.estimation.outlook import (
    ComputeAmount,
    ComputeRate,
    compute_yearly_growth,
    count_centre_days,
    facts,
    grow_by_doubling,
    grow_by_year,
    parse_chinese_number,
)
from jobs.estimation.plan import ParallelPlan
from jobs.estimation.presets import presets
from jobs.estimation.run_total import compute_mfu_by_rule, compute_young_interval, estimate_by_rule
from jobs.estimation.storage import CheckpointPolicy, count_checkpoint_bytes, plan_storage, review_storage
from jobs.estimation.supernode import total_machine, warn_of_wide_experts
from jobs.estimation.workload import Workload

HOUR, DAY = 3600.0, 86_400.0
GIB = 2**30
A100_PEAK, H800_PEAK = 312e12, 989e12


def codes(advice):
    return {item.code for item in advice}


# -- A1, A2: amounts, rates and growth


def test_a1_gpt3_is_3637_pflops_days_and_seven_centre_days():
    flop = count_flop_6nd(174_600_000_000, 300_000_000_000)
    assert flop == pytest.approx(3.143e23, rel=5e-4)
    assert to_pflop_per_s_days(flop) == pytest.approx(3637.5, abs=0.05)
    preset = presets()["gpt3-175b"].architecture
    assert to_pflop_per_s_days(count_flop_6nd(preset.parameters, 300_000_000_000)) == pytest.approx(3637.5, rel=0.005)
    amount = ComputeAmount.from_pflops_days(3640)
    assert count_centre_days(amount, ComputeRate.from_pflops(500), utilisation=1.0) == pytest.approx(7.28)
    assert str(amount).endswith("PFLOPS·天")
    assert facts()["F1"].status == "口径有误"
    with pytest.raises(TypeError):
        amount + ComputeRate.from_pflops(500)


def test_a2_growth_factors_and_their_status():
    assert grow_by_doubling(12, doubling_months=3.43) == pytest.approx(11.30, abs=0.01)
    assert grow_by_year(5, rate=0.5) == pytest.approx(7.59, abs=0.01)
    assert facts()["F6"].value / 500 == pytest.approx(210e18)
    assert compute_yearly_growth(500, years=7) == pytest.approx(1.43, abs=0.005)
    assert [facts()[name].status for name in ("F4", "F6")] == ["已核实", "口径有误"]


# -- A3: BaGuaLu on the new Sunway


def test_a3_the_new_sunway_has_37_million_cores_and_holds_174_trillion_parameters():
    machine = Machine.from_catalog("sw26010-pro")
    totals = total_machine(machine, 96_000)
    assert totals.cores == 37_440_000
    assert totals.supernodes == 375
    assert totals.memory_bytes == pytest.approx(9.216e15, rel=1e-6)
    assert totals.peak_flop_per_s["fp16"] == pytest.approx(5.309e18, rel=1e-3)
    parameters = parse_chinese_number("174万亿参数")
    assert parameters * 16 == pytest.approx(2.784e15)
    assert parameters * 16 < totals.memory_bytes
    # More than 1 EFLOPS measured: 18.8 % of the fp16 peak.
    assert 1e18 / totals.peak_flop_per_s["fp16"] == pytest.approx(0.188, abs=0.001)


def test_a3_experts_beyond_256_nodes_are_warned_of_with_16_to_3():
    machine = Machine.from_catalog("sw26010-pro")
    wide = warn_of_wide_experts(machine, expert_parallel=512, devices=96_000)
    assert wide is not None
    assert (wide.ratio, wide.supernode_devices) == ("16:3", 256)
    assert warn_of_wide_experts(machine, expert_parallel=256, devices=96_000) is None


# -- A5: published runs by 6ND and 8ND


def test_a5_llama_65b_took_21_days_at_48_per_cent():
    # 380 tokens/s/GPU on 2,048 A100-80G (arXiv 2302.13971).
    run = {"active_parameters": 65.2e9, "tokens": 1.4e12}
    rate = 6 * 65.2e9 * 380
    rule = estimate_by_rule(devices=2048, flop_per_s_per_device=rate, **run)
    assert rule.days == pytest.approx(20.82, rel=0.01)
    assert rule.accelerator_s / HOUR == pytest.approx(1.023e6, rel=0.01)
    assert compute_mfu_by_rule(accelerator_s=rule.accelerator_s, peak_flop_per_s=A100_PEAK, **run) == pytest.approx(
        0.476, rel=0.01
    )


def test_a5_bloom_took_104_days_by_8nd_and_not_78_by_6nd():
    # 384 A100 at 150 TFLOP/s of hardware FLOP with full recomputation; 11 March to 5 July 2022 are 116 days.
    run = {"active_parameters": 176.25e9, "tokens": 366e9, "devices": 384, "flop_per_s_per_device": 150e12}
    full, plain = (estimate_by_rule(recomputation=mode, **run) for mode in ("full", "none"))
    assert full.days == pytest.approx(103.7, rel=0.01)
    assert plain.days == pytest.approx(77.8, rel=0.01)
    assert full.flop / full.model_flop == pytest.approx(4 / 3)
    assert 116 / full.days - 1 == pytest.approx(0.11, abs=0.015)


@pytest.mark.parametrize(
    ("active_parameters", "tokens", "recomputation", "flop"),
    [
        (175e9, 300e9, "full", 4.20e23),  # OPT-175B: the chronicles say 4.30e23
        (175e9, 300e9, "none", 3.15e23),
        (130e9, 400e9, "none", 3.12e23),  # GLM-130B
        (37e9, 14.8e12, "none", 3.29e24),  # DeepSeek-V3, active parameters
        (135e9, 13.2e12, "none", 1.069e25),  # Pangu Ultra, arXiv 2504.07866
        (50.6e9, 569e9, "none", 1.73e23),  # BloombergGPT
    ],
    ids=["opt-8nd", "opt-6nd", "glm-130b", "deepseek-v3", "pangu-ultra", "bloomberggpt"],
)
def test_a5_flop_of_published_runs(active_parameters, tokens, recomputation, flop):
    rule = estimate_by_rule(
        active_parameters=active_parameters,
        tokens=tokens,
        devices=1,
        flop_per_s_per_device=1e15,
        recomputation=recomputation,
    )
    assert rule.flop == pytest.approx(flop, rel=0.01)


def test_a5_opt_as_published_is_nearer_to_8nd_than_to_6nd():
    published = 4.30e23
    assert 8 * 175e9 * 300e9 / published - 1 == pytest.approx(-0.023, abs=0.001)
    # 33 days on 1,024 A100 at 147 TFLOP/s a GPU, the rate of the chronicles.
    rule = estimate_by_rule(
        active_parameters=175e9, tokens=300e9, devices=1024, flop_per_s_per_device=147e12, recomputation="full"
    )
    assert rule.days == pytest.approx(33, rel=0.03)


def test_a5_glm_130b_reached_26_per_cent():
    # 768 A100-40G for 58 days.
    mfu = compute_mfu_by_rule(
        active_parameters=130e9, tokens=400e9, accelerator_s=768 * 58 * DAY, peak_flop_per_s=A100_PEAK
    )
    assert mfu == pytest.approx(0.26, rel=0.01)


def test_a5_pangu_ultra_and_tianyuan_in_pflops_days():
    def days(parameters, tokens):
        return to_pflop_per_s_days(count_flop_6nd(parameters, tokens))

    assert days(135_000_000_000, 13_200_000_000_000) == pytest.approx(123_750, rel=1e-3)
    assert days(7_000_000_000, 350_000_000_000) == pytest.approx(170, rel=0.01)
    assert days(13_000_000_000, 350_000_000_000) == pytest.approx(316, rel=0.01)


def test_a5_deepseek_v3_counts_active_parameters_for_flop_and_all_for_memory():
    arch = presets()["deepseek-v3"].architecture
    assert arch.active_parameters == pytest.approx(37e9, rel=0.02)
    assert arch.parameters == pytest.approx(671e9, rel=0.001)
    # 2.788M H800-hours.
    accelerator_s = 2.788e6 * HOUR
    rate = 6 * 37e9 * 14.8e12 / accelerator_s
    assert rate == pytest.approx(327e12, rel=0.01)
    mfu = compute_mfu_by_rule(
        active_parameters=37e9, tokens=14.8e12, accelerator_s=accelerator_s, peak_flop_per_s=H800_PEAK
    )
    assert mfu == pytest.approx(0.331, rel=0.01)
    workload = Workload.from_dict({"model": {"preset": "deepseek-v3"}, "tokens": 14.8e12})
    assert count_checkpoint_bytes(workload) == 14 * arch.parameters


def test_a5_a_vertical_model_is_cheaper_to_adapt_than_to_train():
    model = {"model": {"preset": "llama-2-13b"}}
    scratch, continued, lora = (
        Workload.from_dict({**model, "tokens": tokens, "task": task})
        for tokens, task in ((260e9, "pretraining"), (10e9, "continued_pretraining"), (10e9, "lora"))
    )
    flop = [count_flop_6nd(item.architecture.parameters, item.tokens) for item in (scratch, continued)]
    assert flop[0] / flop[1] == pytest.approx(26)
    assert count_checkpoint_bytes(lora) < 0.01 * count_checkpoint_bytes(continued)
    assert trainable_parameters(lora) < 0.01 * trainable_parameters(continued)


# -- A6: input and output


def test_a6_blooms_checkpoint_size_rate_and_daily_growth():
    assert pytest.approx(2294.8, abs=0.1) == 176e9 * 14 / GIB
    workload = Workload.from_dict({"model": {"preset": "bloom-176b"}, "tokens": 366e9})
    assert count_checkpoint_bytes(workload) / GIB == pytest.approx(2294.8, rel=0.002)
    # 2.3 TB on disk, written in 40 s, every 3 h.
    rate = 2.3e12 / 40
    assert rate == pytest.approx(57.5e9)
    plan = plan_storage(
        dataset_bytes=366e9 * 4,
        read_bytes_per_s=1e6,
        checkpoint_bytes=2.3e12,
        storage_bytes_per_s=rate,
        devices=384,
        mtbf_s=168 * HOUR,
        run_s=104 * DAY,
        policy=CheckpointPolicy(interval_s=3 * HOUR, keep_every=1),
    )
    assert plan.write_s == pytest.approx(40)
    assert plan.written_bytes_per_day == pytest.approx(18.4e12)
    assert plan.stall_share == pytest.approx(0.0037, rel=0.01)


def test_a6_young_writes_every_quarter_of_an_hour():
    mtbf_s = 54 * DAY / 419
    assert mtbf_s / HOUR == pytest.approx(3.093, abs=0.001)
    assert pytest.approx(50_677, rel=1e-4) == 54 * 24 * 16_384 / 419
    assert compute_young_interval(write_s=40, mtbf_s=3.093 * HOUR) / 60 == pytest.approx(15.7, abs=0.05)


def test_a6_two_million_files_of_50_kb_are_flagged():
    plan = plan_storage(
        dataset_bytes=2e6 * 50e3,
        dataset_files=2_000_000,
        read_bytes_per_s=1e6,
        checkpoint_bytes=1e11,
        storage_bytes_per_s=1e10,
        devices=8,
        mtbf_s=1e7,
        run_s=DAY,
    )
    assert "small_files" in codes(review_storage(plan))


# -- A7: depth and precision


def make_card(layers, hidden, **changes):
    block = 12 * layers * hidden**2
    settings = {"precision": "bf16"} | changes
    return describe_depth(parameters=block, block_parameters=block, layers=layers, hidden_size=hidden, **settings)


def test_a7_96_layers_in_bf16_want_an_fp32_residual_stream():
    card = make_card(96, 12_288)
    assert card.rounding_error == pytest.approx(2.37e-2, rel=0.005)
    # Measured on a residual network in each format.
    assert card.rounding_error == pytest.approx(2.30e-2, rel=0.05)
    assert card.rounding_error_fp32_stream == pytest.approx(3.4e-3, rel=0.02)
    assert "low_precision_residual_stream" in codes(review_depth(card))
    assert "low_precision_residual_stream" not in codes(review_depth(make_card(96, 12_288, fp32_residual_stream=True)))


@pytest.mark.parametrize(
    ("layers", "precision", "fp32_stream", "measured"),
    [
        (24, "bf16", False, 1.22e-2),
        (96, "bf16", False, 2.30e-2),
        (192, "bf16", False, 3.37e-2),
        (24, "bf16", True, 3.5e-3),
        (192, "bf16", True, 3.4e-3),
        (24, "fp16", False, 1.5e-3),
        (192, "fp16", False, 4.0e-3),
        (96, "fp16", True, 4.3e-4),
    ],
)
def test_a7_the_rule_gives_the_measured_errors(layers, precision, fp32_stream, measured):
    error = estimate_rounding_error(layers=layers, precision=precision, fp32_residual_stream=fp32_stream)
    assert error == pytest.approx(measured, rel=0.05)


def test_a7_gpt3_is_too_deep_and_bloom_is_not():
    gpt3, bloom = make_card(96, 12_288), make_card(70, 14_336)
    assert gpt3.best_layers == pytest.approx(80.5, abs=0.1)
    assert gpt3.depth_ratio == pytest.approx(1.19, abs=0.01)
    assert "model_too_deep" in codes(review_depth(gpt3))
    assert bloom.depth_ratio == pytest.approx(0.87, abs=0.01)
    assert "model_too_deep" not in codes(review_depth(bloom))


def test_a7_a_usual_model_in_fp16_with_an_fp32_stream_has_no_warning():
    assert review_depth(make_card(32, 4096, precision="fp16", fp32_residual_stream=True)) == []


def test_a7_presets_give_the_same_card_as_their_shape():
    workload = Workload.from_dict({"model": {"preset": "gpt3-175b"}, "tokens": 300e9, "sequence_length": 2048})
    card = describe_numerics(workload, ParallelPlan())
    assert card.best_layers == pytest.approx(make_card(96, 12_288).best_layers)
    assert card.is_too_deep
