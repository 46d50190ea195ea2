"""The catalogue of accelerators, the machine they stand in, and the rules of domestic machines."""

import json
import math
import pickle
import re
import tomllib
from collections import Counter
from dataclasses import replace
from typing import Final

import numpy as np
import pytest

from jobs.estimation.accelerator import Accelerator
from jobs.estimation.accelerator_catalog import AcceleratorCatalog, accelerators, find_accelerator, normalise_name
from jobs.estimation.catalog_files import CATALOG
from jobs.estimation.constants import load_constants
from jobs.estimation.evaluation import estimate
from jobs.estimation.hardware import GIB, PRECISIONS, Machine
from jobs.estimation.plan import ParallelPlan
from jobs.estimation.supernode import (
    check_one_accelerator,
    describe_ratio,
    find_crossings,
    narrow,
    share_leaving_in_exchanges,
    share_leaving_in_rings,
    total_machine,
    warn_of_wide_experts,
)
from jobs.estimation.validation import InvalidInput
from jobs.estimation.workload import Workload

CODES: Final = list(accelerators())
TEXT: Final = (CATALOG / "accelerators.toml").read_text(encoding="utf-8")

# Every name that the tables of published runs print.
PUBLISHED_NAMES: Final = {
    "A100-SXM4-40GB": "a100-40g",
    "A100-SXM4-80GB": "a100-80g",
    "A800-SXM4-80GB": "a800-80g",
    "Ascend-910A-32GB": "ascend910a-32g",
    "Ascend-910A-32GB(Atlas 800)": "ascend910a-32g",
    "Ascend-910B-64GB": "ascend910b-64g",
    "Ascend-910B-64GB(Atlas 800T A2)": "ascend910b-64g",
    "Ascend-910B-64GB(Atlas 900 A2 PODc)": "ascend910b-64g",
    "Ascend-910C-64GB-die(Atlas 900 A3 SuperPoD)": "ascend910c-die-64g",
    "B200-SXM-180GB": "b200-180g",
    "B300-SXM-270GB": "b300-270g",
    "GB200-186GB": "gb200-186g",
    "GB300-279GB": "gb300-279g",
    "Gaudi2-96GB": "gaudi2-96g",
    "H100-96GB-HBM2e-500W": "h100-96g-hbm2e",
    "H100-SXM5-80GB": "h100-80g",
    "H200-SXM5-141GB": "h200-141g",
    "H800-SXM5-80GB": "h800-80g",
    "Hygon-DCU-K100-64GB": "dcu-k100-64g",
    "Iluvatar-BI-V150": "bi-v150-64g",
    "Kunlunxin-R300-32GB": "kunlunxin-r300-32g",
    "MI250X-128GB(2 GCD)": "mi250x-128g",
    "MI250X-GCD-64GB": "mi250x-gcd-64g",
    "MI300X-192GB": "mi300x-192g",
    "MI355X-288GB": "mi355x-288g",
    "MetaX-C500-64GB": "metax-c500-64g",
    "SW26010-Pro": "sw26010-pro",
    "TPU-v3-16GB(core pair)": "tpu-v3-32g",
    "TPU-v3-32GB(chip)": "tpu-v3-32g",
    "TPU-v4-32GB": "tpu-v4-32g",
    "TPU-v5e-16GB": "tpu-v5e-16g",
    "TPU-v5p-95GB": "tpu-v5p-95g",
    "TPU-v6e-32GB": "tpu-v6e-32g",
    "V100": "v100-32g",
    "V100-SXM2-32GB": "v100-32g",
    # Tables of fine-tuning memory and of goodput.
    "A100-80GB": "a100-80g",
    "A100-80GB ~": "a100-80g",
    "A10G-24GB": "a10g-24g",
    "A6000/A40-48GB": "a40-48g",
    "RTX-4090": "rtx4090-24g",
    "RTX-A6000": "rtxa6000-48g",
    "T4-16GB": "t4-16g",
    "Ascend 910B": "ascend910b-64g",
    "H100": "h100-80g",
    "H800": "h800-80g",
}

# As drivers, schedulers and people write them.
OTHER_NAMES: Final = {
    "NVIDIA A100-SXM4-80GB": "a100-80g",
    "NVIDIA A100 80GB PCIe": "a100-pcie-80g",
    "NVIDIA H100 80GB HBM3": "h100-80g",
    "Tesla V100-SXM2-16GB": "v100-16g",
    "NVIDIA GeForce RTX 3090": "rtx3090-24g",
    "AMD Instinct MI300X": "mi300x-192g",
    "Huawei Ascend 910B3": "ascend910b3-64g",
    "Ascend910B2": "ascend910b-64g",
    "昇腾910B": "ascend910b-64g",
    "海光 K100_AI（64GB）": "dcu-k100-ai-64g",
    "寒武纪 MLU590": "mlu590-80g",
    "申威26010-Pro": "sw26010-pro",
    "沐曦C500": "metax-c500-64g",
    "  a800 80 gb ": "a800-80g",
    "A800 80GiB": "a800-80g",
    "寒武纪 MLU370-X8 48GB": "mlu370-x8-48g",
    "Ｈ２０": "h20-96g",
    "MT-3000": "mt-3000",
}


# Catalogue


@pytest.mark.parametrize("code", CODES)
def test_every_entry_is_valid_and_says_where_it_comes_from(code: str) -> None:
    item = accelerators()[code]
    assert re.fullmatch(r"[a-z0-9-]+", code)
    assert item.source_status in ("seen", "recalled")
    assert re.fullmatch(r"20\d\d-\d\d", item.source_date)
    assert item.source_url.startswith("https://")
    assert item.memory_bytes > item.runtime_overhead_bytes
    assert item.memory_bytes_per_s > item.inter_node_bytes_per_s
    assert item.scale_up_devices % item.devices_per_node == 0
    assert max(item.allowed_device_counts) <= max(item.devices_per_node, 4)
    assert list(item.allowed_device_counts) == sorted(set(item.allowed_device_counts))
    assert item.notes or item.source_status == "seen"


@pytest.mark.parametrize("code", CODES)
def test_fewer_bits_are_never_slower(code: str) -> None:
    peaks = accelerators()[code].peak_flop_per_s
    halves = {peaks[name] for name in ("fp16", "bf16") if name in peaks}
    assert len(halves) <= 1
    ordered = [peaks["fp32"]] if "fp32" in peaks else []
    ordered += halves
    ordered += [peaks[name] for name in ("fp8", "fp4") if name in peaks]
    assert ordered == sorted(ordered)
    assert 1e12 < ordered[-1] < 2e16 or code == "host-cpu"


@pytest.mark.parametrize("code", CODES)
def test_a_peer_gets_a_part_of_the_links_and_the_network_is_no_faster_than_they(code: str) -> None:
    item = accelerators()[code]
    assert item.peer_bytes_per_s is None or item.peer_bytes_per_s < item.intra_node_bytes_per_s
    assert item.inter_node_bytes_per_s <= item.intra_node_bytes_per_s


def test_every_code_and_alias_means_one_accelerator() -> None:
    meanings: dict[str, set[str]] = {}
    for code, item in accelerators().items():
        for name in (code, *item.aliases):
            meanings.setdefault(normalise_name(name), set()).add(code)
    assert {name: codes for name, codes in meanings.items() if len(codes) > 1} == {}


def test_reading_table_by_table_finds_what_reading_the_whole_file_finds() -> None:
    whole = tomllib.loads(TEXT)["accelerator"]
    assert list(whole) == CODES
    for code, entry in whole.items():
        item = accelerators()[code]
        assert (item.title, list(item.aliases), item.notes) == (
            entry["title"],
            entry["aliases"],
            entry.get("notes", ""),
        )
        assert item.peak_flop_per_s == {name: 1e12 * value for name, value in entry["peak_tflop_per_s"].items()}


def test_an_entry_is_read_only_when_asked_for() -> None:
    catalog = AcceleratorCatalog(TEXT)
    assert len(catalog) == len(CODES)
    assert "a100-80g" in catalog
    assert catalog.names["a10080g"] == "a100-80g"
    assert not catalog._built
    assert catalog["a100-80g"] is catalog["a100-80g"]
    assert list(catalog._built) == ["a100-80g"]
    with pytest.raises(KeyError):
        catalog["abacus"]


@pytest.mark.parametrize("code", CODES)
def test_every_family_has_fitted_constants_and_overrides_only_those(code: str) -> None:
    item = accelerators()[code]
    family = load_constants().family[item.family]
    assert set(item.constants) <= set(family)


def test_every_family_has_constants() -> None:
    assert {item.family for item in accelerators().values()} <= set(load_constants().family)


def test_cards_cut_for_export_differ_from_their_originals_in_links_alone() -> None:
    for original, cut in (("a100-80g", "a800-80g"), ("h100-80g", "h800-80g")):
        whole, less = accelerators()[original], accelerators()[cut]
        assert whole.peak_flop_per_s == less.peak_flop_per_s
        assert (whole.memory_bytes, whole.family) == (less.memory_bytes, less.family)
        assert less.intra_node_bytes_per_s < whole.intra_node_bytes_per_s


def test_half_a_package_is_half_of_it() -> None:
    for whole_code, half_code in (("mi250x-128g", "mi250x-gcd-64g"), ("ascend910c-128g", "ascend910c-die-64g")):
        whole, half = accelerators()[whole_code], accelerators()[half_code]
        assert whole.peak_flop_per_s == {name: 2 * peak for name, peak in half.peak_flop_per_s.items()}
        for name in ("memory_bytes", "memory_bytes_per_s", "inter_node_bytes_per_s", "tdp_w"):
            assert getattr(whole, name) == 2 * getattr(half, name)
        assert half.devices_per_node == 2 * whole.devices_per_node
        assert half.family == whole.family


@pytest.mark.parametrize(
    ("code", "name", "measured"),
    [
        ("a100-80g", "matmul_peak_fraction", 271.2 / 312),
        ("a100-pcie-80g", "matmul_peak_fraction", 252.9 / 312),
        ("mi300x-192g", "matmul_peak_fraction", 668.4 / 1307),
        ("gb200-186g", "fp8_matmul_peak_fraction", 3616 / 5000),
        ("h200-141g", "memory_peak_fraction", 4.19 / 4.8),
        ("mi300x-192g", "intra_link_fraction", 316.8 / 448),
        ("gb300-279g", "matmul_peak_fraction", None),
    ],
)
def test_what_was_measured_stands_beside_the_peak(code: str, name: str, measured: float | None) -> None:
    assert getattr(accelerators()[code], name) == (measured and pytest.approx(measured, abs=1e-3))


def test_precisions_that_a_card_lacks_are_missing() -> None:
    without = [code for code, item in accelerators().items() if "bf16" not in item.peak_flop_per_s]
    expected = {"v100-16g", "v100-32g", "t4-16g", "ascend910a-32g", "dcu-z100-32g", "dcu-k100-64g", "mt-3000"}
    assert set(without) == expected | {"kunlunxin-r300-32g", "host-cpu"}


# Names


@pytest.mark.parametrize(("name", "code"), [*PUBLISHED_NAMES.items(), *OTHER_NAMES.items()])
def test_names_of_tables_drivers_and_people_are_understood(name: str, code: str) -> None:
    assert find_accelerator(name).code == code


@pytest.mark.parametrize("code", CODES)
def test_a_code_is_its_own_name(code: str) -> None:
    assert find_accelerator(code).code == code
    assert find_accelerator(code.upper().replace("-", " ")).code == code


@pytest.mark.parametrize(
    ("name", "close"),
    [("A10-80GB", "a100-80g"), ("Ascend 910D", "ascend910b-64g"), ("tpu", "tpu-v4-32g"), ("H100 NVL", "h100-80g")],
)
def test_an_unknown_name_is_answered_with_close_ones(name: str, close: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        find_accelerator(name)
    assert (caught.value.field, caught.value.value) == ("machine.accelerator", name)
    assert close in caught.value.allowed
    assert len(caught.value.allowed) < 200


@pytest.mark.parametrize("name", [None, 7, "", "   ", "abacus", "a100-80g" * 1000, ["a100-80g"], "()", "\0"])
def test_what_is_no_name_is_refused_with_what_is_known(name: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        find_accelerator(name, field_name="row.accelerator")
    assert caught.value.field == "row.accelerator"
    assert "a100-80g" in caught.value.allowed


# Stored values


@pytest.mark.parametrize("code", CODES)
def test_an_accelerator_survives_json(code: str) -> None:
    item = accelerators()[code]
    assert Accelerator.from_dict(json.loads(json.dumps(item.to_dict()))) == item


def test_an_accelerator_stored_by_an_earlier_version_is_read() -> None:
    stored = accelerators()["a800-80g"].to_dict()
    added = {"family", "scale_up_devices", "host_bytes_per_s", "peer_bytes_per_s", "supernode_devices", "aliases"}
    added |= {
        "supernode_oversubscription",
        "cores",
        "is_asynchronous",
        "constants",
        "gres_name",
        "gres_type",
        "sources",
    }
    added |= {name for name in stored if name.endswith("_fraction")}
    item = Accelerator.from_dict({name: value for name, value in stored.items() if name not in added})
    assert item.scale_up_devices == item.devices_per_node == 8
    assert item.peak_flop_per_s == accelerators()["a800-80g"].peak_flop_per_s
    assert Machine(accelerator=item).scale_up_size == 8


def test_a_machine_stored_by_an_earlier_version_is_read() -> None:
    stored = {
        "accelerator": "a800-80g",
        "devices_per_node": 4,
        "intra_node_bytes_per_s": 2e11,
        "inter_node_bytes_per_s": 2.5e10,
        "storage_bytes_per_s": None,
        "measured_peak_flop_per_s": None,
        "mtbf_hours_per_device": 50600.0,
        "restart_s": 600.0,
        "price_per_device_hour": None,
    }
    machine = Machine.from_dict(stored)
    assert machine == Machine.from_catalog("a800-80g", devices_per_node=4)
    assert (machine.scale_up_size, machine.pue) == (4, 1.3)


def test_a_machine_with_every_override_survives_json() -> None:
    machine = Machine.from_catalog(
        "GB200-186GB", scale_up_devices=36, host_bytes_per_s=1e11, supernode_devices=576, oversubscription=2.0, pue=1.1
    )
    assert Machine.from_dict(json.loads(json.dumps(machine.to_dict()))) == machine
    assert machine.to_dict()["accelerator"] == "gb200-186g"


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"pue": 0.9}, "machine.pue"),
        ({"pue": 3.5}, "machine.pue"),
        ({"pue": float("nan")}, "machine.pue"),
        ({"oversubscription": 0.5}, "machine.oversubscription"),
        ({"oversubscription": "16:3"}, "machine.oversubscription"),
        ({"supernode_devices": 0}, "machine.supernode_devices"),
        ({"scale_up_devices": 12}, "machine.scale_up_devices"),
        ({"scale_up_devices": -8}, "machine.scale_up_devices"),
        ({"host_bytes_per_s": 0}, "machine.host_bytes_per_s"),
    ],
)
def test_a_senseless_machine_is_refused_by_field(overrides: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Machine.from_catalog("h100-80g", **overrides)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scale_up_devices": 0}, "accelerator.scale_up_devices"),
        ({"matmul_peak_fraction": 1.2}, "accelerator.matmul_peak_fraction"),
        ({"constants": {"matmul_fraction": "high"}}, "accelerator.constants.matmul_fraction"),
        ({"supernode_oversubscription": 0.1}, "accelerator.oversubscription"),
        ({"aliases": ("",)}, "accelerator.aliases"),
        ({"is_asynchronous": 1}, "accelerator.is_asynchronous"),
    ],
)
def test_a_senseless_accelerator_is_refused_by_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(accelerators()["h100-80g"], **changes)
    assert caught.value.field == field
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


# Domains


@pytest.mark.parametrize(
    ("code", "devices_per_node", "domain"),
    [
        ("h100-80g", None, 8),
        ("h100-80g", 4, 4),
        ("h100-80g", 16, 16),
        ("gb200-186g", None, 72),
        ("gb200-186g", 8, 72),
        ("gb200-186g", 16, 64),
        ("gb200-186g", 128, 128),
        ("ascend910c-die-64g", None, 768),
        ("sw26010-pro", None, 256),
    ],
)
def test_the_scale_up_domain_follows_node_and_rack(code: str, devices_per_node: int | None, domain: int) -> None:
    assert Machine.from_catalog(code, devices_per_node=devices_per_node).scale_up_size == domain


def test_what_has_no_memory_beside_the_hosts_can_offload_nothing() -> None:
    without = {code for code in CODES if not Machine.from_catalog(code).has_host_memory}
    assert without == {"sw26010-pro", "mt-3000", "host-cpu"}
    assert Machine.from_catalog("gb200-186g").host_rate_bytes_per_s == 2e11
    assert Machine.from_catalog("sw26010-pro").host_rate_bytes_per_s == 307.2e9
    assert Machine.from_catalog("a100-80g", host_bytes_per_s=1e10).host_rate_bytes_per_s == 1e10


@pytest.mark.parametrize(
    ("code", "counts"),
    [
        ("ascend910b-64g", (1, 2, 4, 8)),
        ("ascend910c-die-64g", (1, 2, 4, 6, 8, 10, 12, 14, 16)),
        ("dcu-z100-32g", (1, 2, 4)),
        ("sw26010-pro", (1,)),
    ],
)
def test_a_job_may_ask_for_the_counts_that_the_links_allow(code: str, counts: tuple[int, ...]) -> None:
    assert Machine.from_catalog(code).allowed_device_counts == counts


def test_a_node_of_another_size_gives_whole_nodes_and_smaller_allowed_counts() -> None:
    assert Machine.from_catalog("ascend910b-64g", devices_per_node=6).allowed_device_counts == (1, 2, 4, 6)


# Supernodes


def test_the_new_sunway_has_the_totals_that_were_published() -> None:
    machine = Machine.from_catalog("sw26010-pro")
    totals = total_machine(machine, 96_000)
    assert totals.cores == 37_440_000
    assert totals.memory_bytes == 9_216 * 10**12
    assert totals.peak_flop_per_s["fp16"] == pytest.approx(5.309e18, rel=1e-4)
    assert (totals.nodes, totals.supernodes) == (96_000, 375)
    # BaGuaLu's 174 T parameters: 16 bytes each fit, and no more than 52 would.
    assert totals.memory_bytes // (174 * 10**12) == 52


def test_totals_of_other_machines_leave_out_what_nobody_counts() -> None:
    totals = total_machine(Machine.from_catalog("h100-80g"), 20)
    assert (totals.nodes, totals.supernodes, totals.cores) == (3, None, None)
    assert totals.memory_bytes == 20 * 80 * GIB


def test_groups_that_fill_a_supernode_evenly_stay_inside() -> None:
    machine = Machine.from_catalog("sw26010-pro")
    spans = np.array([1, 2, 64, 96, 128, 256, 257, 512])
    assert find_crossings(machine, span=spans, devices=1024).tolist() == [
        False, False, False, True, False, False, True, True,
    ]  # fmt: skip
    # Where all devices are in one supernode, nothing leaves it.
    assert not find_crossings(machine, span=spans[:6], devices=256).any()
    assert not find_crossings(Machine.from_catalog("h100-80g"), span=spans, devices=1024).any()


def test_rings_feel_the_narrow_up_links_as_far_as_their_ranks_lie_apart() -> None:
    machine = Machine.from_catalog("sw26010-pro")
    strides = np.array([1, 48, 96, 256, 1024])
    leaving = share_leaving_in_rings(strides, machine.supernode_size or 0)
    assert narrow(leaving, machine.oversubscription_factor) == pytest.approx([1, 1, 2, 16 / 3, 16 / 3])
    workload = Workload.from_dict({
        "model": {"preset": "llama-2-7b"},
        "tokens": 1e9,
        "global_batch_size": 512,
        "precision": "bf16",
    })  # fmt: skip
    slower = replace(machine.accelerator, supernode_oversubscription=100.0)
    freely, choked = machine, replace(machine, accelerator=slower)
    inside = ParallelPlan(tensor_parallel=8, data_parallel=32)
    across = ParallelPlan(tensor_parallel=8, data_parallel=128)
    assert estimate(workload, choked, inside).step_s == estimate(workload, freely, inside).step_s
    assert estimate(workload, choked, across).step_s > estimate(workload, freely, across).step_s


def count_leaving_share(span: int, *, devices: int, size: int = 256) -> float:
    """Share of all-to-all traffic that leaves the busiest supernode, by counting who shares a group with whom."""
    numbers = np.arange(devices)
    supernode = numbers // size
    pieces, lengths = np.unique(np.stack([supernode, numbers // span]), axis=1, return_counts=True)
    return float(1 - np.bincount(pieces[0], weights=lengths**2).min() / span / size)


@pytest.mark.parametrize("span", [64, 96, 160, 192, 256, 257, 384, 512, 640, 1024])
def test_an_all_to_all_is_narrowed_by_what_leaves_the_busiest_supernode(span: int) -> None:
    machine = Machine.from_catalog("sw26010-pro")
    devices = 2 * math.lcm(span, 256)
    leaving = share_leaving_in_exchanges(span, machine.supernode_size or 0)
    # Groups that fill supernodes exactly stay inside.
    is_cut = bool(find_crossings(machine, span=span, devices=devices))
    slowdown = float(narrow(leaving, machine.oversubscription_factor)) if is_cut else 1.0
    counted = max(1.0, count_leaving_share(span, devices=devices) * 16 / 3)
    # The edges needn't cut the groups exactly in halves, so the rule may be a little too careful, never too bold.
    assert counted <= slowdown * 1.001
    assert slowdown == pytest.approx(counted, rel=0.35)
    if span % 256 == 0 or 256 % span == 0:
        assert slowdown == pytest.approx(counted)


def test_experts_beyond_a_supernode_are_warned_of_with_the_ratio() -> None:
    machine = Machine.from_catalog("sw26010-pro")
    assert warn_of_wide_experts(machine, expert_parallel=256, devices=96_000) is None
    warning = warn_of_wide_experts(machine, expert_parallel=512, devices=96_000)
    assert warning is not None
    assert (warning.expert_span, warning.supernode_devices, warning.ratio) == (512, 256, "16:3")
    assert warning.slowdown == pytest.approx(16 / 6)
    # Tensor-parallel ranks lie between the experts.
    wide = warn_of_wide_experts(machine, expert_parallel=256, tensor_parallel=2, devices=96_000)
    assert wide == warning
    assert warn_of_wide_experts(machine, expert_parallel=1, tensor_parallel=512, devices=96_000) is None
    assert warn_of_wide_experts(Machine.from_catalog("h100-80g"), expert_parallel=512, devices=1024) is None


def test_a_site_states_its_own_narrowing() -> None:
    machine = Machine.from_catalog("h800-80g", supernode_devices=512, oversubscription=2.0)
    warning = warn_of_wide_experts(machine, expert_parallel=1024, devices=4096)
    assert warning is not None
    assert (warning.ratio, warning.supernode_devices) == ("2:1", 512)
    # Without a size, the network narrows behind every node.
    assert Machine.from_catalog("h800-80g", oversubscription=2.0).supernode_size == 8


@pytest.mark.parametrize(("factor", "text"), [(16 / 3, "16:3"), (1.0, "1:1"), (1.5, "3:2"), (3.14159, "3.14:1")])
def test_a_ratio_is_written_as_engineers_do(factor: float, text: str) -> None:
    assert describe_ratio(factor) == text


def test_a_job_stays_on_one_type_of_accelerator() -> None:
    assert check_one_accelerator(["A800", "a800-80g", "NVIDIA A800-SXM4-80GB"]).code == "a800-80g"
    with pytest.raises(InvalidInput) as caught:
        check_one_accelerator(["A100-80GB", "dcu-k100-64g"], field_name="job.accelerator")
    assert caught.value.field == "job.accelerator"
    assert "a100-80g, dcu-k100-64g" in str(caught.value)
    for names in ([], ["a100-80g", "abacus"]):
        with pytest.raises(InvalidInput):
            check_one_accelerator(names)


def test_every_precision_is_offered_by_some_accelerator() -> None:
    offered = Counter(name for item in accelerators().values() for name in item.peak_flop_per_s)
    assert set(offered) == set(PRECISIONS)
