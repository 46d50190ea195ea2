"""Data, checkpoints and space: published sizes and times, keep policies counted one by one, and remarks."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.estimation.hardware import Machine
from jobs.estimation.presets import presets
from jobs.estimation.storage import (
    CheckpointPolicy,
    checkpoint_bytes_per_parameter,
    count_checkpoint_bytes,
    plan_storage,
    plan_storage_of,
    review_storage,
)
from jobs.estimation.validation import InvalidInput
from jobs.estimation.workload import Workload

HOUR, DAY = 3600.0, 86_400.0
GIB, TIB = 2**30, 2**40


def make_workload(**changes):
    return Workload.from_dict({"model": {"preset": "llama-3.1-8b"}, "tokens": 1e12, **changes})


def make_plan(**changes):
    defaults = {
        "dataset_bytes": 4e12,
        "read_bytes_per_s": 5e6,
        "checkpoint_bytes": 2.3e12,
        "storage_bytes_per_s": 57.5e9,
        "devices": 384,
        "mtbf_s": 168 * HOUR,
        "run_s": 100 * DAY,
    }
    return plan_storage(**(defaults | changes))


def codes(plan):
    return {item.code for item in review_storage(plan)}


# -- published sizes and times


@pytest.mark.parametrize(
    ("parameters", "published_bytes"),
    [
        (176e9, 2294.77 * GIB),  # BLOOM: bigscience, train/tr11-176B-ml
        (8.03e9, 105 * GIB),  # Llama 3.1 8B: dgxc-benchmarking and MLPerf Storage 2.0, which print GiB as GB
        (15.6e9, 204 * GIB),  # Nemotron 4 15B
        (341e9, 4.4 * TIB),  # Nemotron 4 340B
        (70.6e9, 912 * GIB),  # MLPerf Storage 2.0
        (405.9e9, 5.29 * TIB),
    ],
)
def test_checkpoints_take_14_bytes_a_parameter(parameters, published_bytes):
    assert parameters * checkpoint_bytes_per_parameter(make_workload()) == pytest.approx(published_bytes, rel=0.025)


def test_checkpoint_bytes_follow_precision_optimizer_and_task():
    per_parameter = {
        (precision, optimizer): checkpoint_bytes_per_parameter(make_workload(precision=precision, optimizer=optimizer))
        for precision in ("bf16", "fp32")
        for optimizer in ("adamw", "sgd")
    }
    assert per_parameter == {
        ("bf16", "adamw"): 14.0,
        ("bf16", "sgd"): 6.0,
        ("fp32", "adamw"): 12.0,
        ("fp32", "sgd"): 4.0,
    }
    adapters = count_checkpoint_bytes(make_workload(task="lora"))
    assert adapters < 0.01 * count_checkpoint_bytes(make_workload())


def test_blooms_checkpoint_takes_40_s_and_18_tb_a_day():
    plan = make_plan(policy=CheckpointPolicy(interval_s=3 * HOUR, keep_every=1))
    assert plan.write_s == pytest.approx(40)
    assert plan.written_bytes_per_day == pytest.approx(18.4e12)
    assert plan.growth_bytes_per_day == pytest.approx(18.4e12)
    assert plan.stall_share == pytest.approx(0.0037, rel=0.01)


def test_flash_checkpoints_of_glm_65b_stall_for_a_fifth_of_a_second():
    # DLRover: 120 s blocking every 250 steps (1.5 h) cost 2.2 %; 0.2 s from memory.
    shared = {"checkpoint_bytes": 14 * 65e9, "storage_bytes_per_s": 14 * 65e9 / 120, "devices": 1536}
    blocking = make_plan(policy=CheckpointPolicy(interval_s=1.5 * HOUR), **shared)
    assert blocking.stall_share == pytest.approx(0.022, rel=0.02)
    flash = make_plan(policy=CheckpointPolicy(interval_s=1.5 * HOUR, is_asynchronous=True), **shared)
    assert flash.stall_s == pytest.approx(0.2, rel=0.02)
    assert flash.write_s == blocking.write_s


def test_a_slow_network_disk_writes_18_gb_in_151_s():
    # DLRover on Megatron's GPT-2 1.5B, NAS at 0.119 GB/s.
    plan = make_plan(checkpoint_bytes=18e9, storage_bytes_per_s=0.119e9, devices=16)
    assert plan.write_s == pytest.approx(151, rel=0.005)
    assert "try_asynchronous_checkpoints" in codes(plan)


def test_llama_3_at_one_terabyte_a_second_writes_every_six_minutes():
    plan = make_plan(checkpoint_bytes=5.67e12, storage_bytes_per_s=1e12, devices=16_384, mtbf_s=3.093 * HOUR)
    assert plan.interval_s / 60 == pytest.approx(5.9, rel=0.03)
    # Half of the 3.2 % that checkpoints and lost work cost.
    assert plan.stall_share == pytest.approx(0.016, rel=0.03)


# -- keep policies


def count_kept_by_hand(policy, written):
    older = range(1, max(written - policy.keep_last, 0) + 1)
    permanent = [number for number in older if policy.keep_every and number % policy.keep_every == 0]
    return len(permanent) + min(written, policy.keep_last)


@given(keep_last=st.integers(1, 6), keep_every=st.integers(0, 6), written=st.integers(0, 60))
def test_kept_checkpoints_are_those_that_the_policy_keeps(keep_last, keep_every, written):
    policy = CheckpointPolicy(keep_last=keep_last, keep_every=keep_every)
    assert policy.count_kept(written) == count_kept_by_hand(policy, written)


@given(keep_last=st.integers(1, 5), keep_every=st.integers(0, 5), room=st.integers(0, 40))
def test_a_disk_is_full_when_the_next_checkpoint_no_longer_fits(keep_last, keep_every, room):
    policy = CheckpointPolicy(keep_last=keep_last, keep_every=keep_every)
    written = 0
    while written < 1000 and count_kept_by_hand(policy, written) + 1 <= room:
        written += 1
    assert policy.count_writable(room) == (None if written == 1000 else written)


def test_days_until_the_disk_is_full_are_those_of_the_first_checkpoint_that_does_not_fit():
    policy = CheckpointPolicy(keep_last=3, keep_every=4, interval_s=DAY)
    plan = make_plan(policy=policy, free_bytes=5.5 * 2.3e12)
    # Five fit: three last ones and two permanent ones leave no room to write from the 12th on.
    assert plan.days_until_full == pytest.approx(12)
    assert "disk_full" in codes(plan)
    assert make_plan(policy=policy, free_bytes=5.5 * 2.3e12, run_s=10 * DAY).days_until_full is None
    assert make_plan(policy=CheckpointPolicy(keep_last=3), free_bytes=4 * 2.3e12).days_until_full is None


def test_kept_bytes_never_exceed_the_policy_and_one_in_the_making():
    plan = make_plan(policy=CheckpointPolicy(keep_last=2, interval_s=HOUR))
    assert plan.kept_checkpoints == 3
    assert plan.kept_bytes == 3 * plan.checkpoint_bytes
    assert plan.growth_bytes_per_day == 0
    short = make_plan(policy=CheckpointPolicy(keep_last=9, interval_s=HOUR), run_s=3 * HOUR)
    assert short.kept_checkpoints == 3


# -- remarks


def test_many_small_files_are_flagged_and_few_or_large_ones_are_not():
    assert "small_files" in codes(make_plan(dataset_bytes=2_000_000 * 50e3, dataset_files=2_000_000))
    assert "small_files" not in codes(make_plan(dataset_bytes=2_000_000 * 2e6, dataset_files=2_000_000))
    assert "small_files" not in codes(make_plan(dataset_bytes=900_000 * 50e3, dataset_files=900_000))
    assert "small_files" not in codes(make_plan())


def test_files_count_against_the_quota():
    policy = CheckpointPolicy(keep_last=2, interval_s=HOUR)
    plan = make_plan(policy=policy, dataset_files=1_000_000, free_inodes=1_000_000)
    assert plan.new_files == 3 * 384
    assert "inode_quota" not in codes(plan)
    copied = make_plan(policy=policy, dataset_files=1_000_000, free_inodes=1_000_000, is_dataset_in_place=False)
    assert copied.new_files == 1_000_000 + 3 * 384
    assert "inode_quota" in codes(copied)


def test_a_dataset_that_must_be_copied_takes_its_room():
    policy = CheckpointPolicy(keep_last=3)
    room = {"policy": policy, "free_bytes": 4.5 * 2.3e12}
    assert make_plan(**room).days_until_full is None
    assert make_plan(is_dataset_in_place=False, **room).days_until_full is not None


def test_storage_that_cannot_keep_up_is_flagged():
    assert {"storage_too_slow", "checkpoints_costly"} <= codes(make_plan(storage_bytes_per_s=1e9, mtbf_s=2 * HOUR))
    assert "reading_too_fast" in codes(make_plan(read_bytes_per_s=40e9))
    assert "many_readers_at_start" in codes(make_plan(loaders_per_device=8))
    fine = make_plan(policy=CheckpointPolicy(is_asynchronous=True))
    assert review_storage(fine) == []


def test_no_remark_on_storage_is_an_error():
    worst = make_plan(
        storage_bytes_per_s=1e8,
        mtbf_s=HOUR,
        dataset_bytes=1e11,
        dataset_files=5_000_000,
        free_bytes=0.0,
        free_inodes=0,
        devices=16_384,
        read_bytes_per_s=1e9,
    )
    remarks = review_storage(worst)
    assert len(remarks) >= 7
    assert all(item.severity in ("info", "warning") and item.text for item in remarks)


# -- whole workloads


def test_reading_text_is_slow_and_checkpoints_are_what_counts():
    # 4 bytes a token: 1T tokens are 4 TB; at 1M tokens/s 4 MB/s.
    workload = make_workload(global_batch_size=512, sequence_length=8192)
    plan = plan_storage_of(workload, Machine.from_catalog("h100-80g"), step_s=512 * 8192 / 1e6, devices=128)
    assert plan.dataset_bytes == pytest.approx(4e12)
    assert plan.read_bytes_per_s == pytest.approx(4e6)
    assert plan.checkpoint_bytes == 14 * presets()["llama-3.1-8b"].architecture.parameters
    assert plan.needed_bytes_per_s > 10 * plan.read_bytes_per_s
    assert json.loads(json.dumps(plan.to_dict(), allow_nan=False))["is_asynchronous"] is False


@given(
    checkpoint=st.floats(0, 1e16),
    rate=st.floats(1, 1e15),
    mtbf=st.floats(1e-2, 1e12),
    run=st.floats(0, 1e9),
    asynchronous=st.booleans(),
)
def test_any_plan_is_finite_json(checkpoint, rate, mtbf, run, asynchronous):
    plan = make_plan(
        checkpoint_bytes=checkpoint,
        storage_bytes_per_s=rate,
        mtbf_s=mtbf,
        run_s=run,
        free_bytes=1e15,
        policy=CheckpointPolicy(is_asynchronous=asynchronous, keep_every=3),
    )
    json.dumps(plan.to_dict(), allow_nan=False)
    assert 0 <= plan.stall_share <= 1
    assert plan.stall_s <= plan.write_s
    assert all(item.text for item in review_storage(plan))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("storage_bytes_per_s", 0.0),
        ("checkpoint_bytes", math.nan),
        ("dataset_bytes", -1.0),
        ("dataset_files", 0),
        ("devices", 0),
        ("free_inodes", -1),
        ("free_bytes", math.inf),
        ("loaders_per_device", 0.5),
    ],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(InvalidInput) as error:
        make_plan(**{name: value})
    assert error.value.field == name


@pytest.mark.parametrize(("name", "value"), [("keep_last", 0), ("keep_every", -1), ("interval_s", 0.0)])
def test_bad_policies_are_named(name, value):
    with pytest.raises(InvalidInput) as error:
        CheckpointPolicy(**{name: value})
    assert error.value.field == f"checkpoint_policy.{name}"
