"""The catalogue of presets: golden sizes, both groupings, sources."""

import pytest

from jobs.estimation import InvalidInput, presets
from jobs.estimation.presets import DOMAINS, get_preset
from tests.estimation.published_models import PUBLISHED

# Exact where the publisher's number is exact (data/published_models.toml says where from).
GOLDEN = {
    "gpt2-small": 124_439_808,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "opt-175b": 174_604_468_224,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-4-maverick": 400_711_848_960,
    "llama-4-scout": 107_769_861_120,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen2-57b-a14b": 57_408_658_944,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "mistral-7b": 7_241_732_096,
    "bloom-176b": 176_247_271_424,
    "baichuan2-13b": 13_896_668_160,
    "chatglm3-6b": 6_243_584_000,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_419_200,
    "kimi-k2": 1_026_408_232_448,
    "glm-4-9b": 9_399_951_360,
    "bert-large": 336_226_108,
    "t5-11b": 11_307_321_344,
    "nemotron-4-340b": 341_029_195_776,
    "bloomberggpt-50b": 50_558_868_480,
    "biogpt": 346_763_264,
    "saullm-7b": 7_241_732_096,
    "galactica-120b": 121_341_747_200,
}

# (billions, relative tolerance): what the publisher prints to two or three digits.
ROUNDED = {
    "gpt3-13b": (13.0, 0.02),
    "gpt3-175b": (174.6, 0.001),
    "grok-1": (314, 0.01),
    "glm-130b": (130, 0.015),
    "nemotron-4-15b": (15.6, 0.005),
    "openpangu-7b": (8.0, 0.01),
    "meditron-7b": (6.74, 0.001),
}


@pytest.mark.parametrize(("name", "parameters"), GOLDEN.items())
def test_a_preset_has_the_published_number_of_parameters(name, parameters):
    assert presets()[name].architecture.parameters == parameters


@pytest.mark.parametrize(("name", "billions"), ROUNDED.items())
def test_a_preset_has_the_published_digits(name, billions):
    published, tolerance = billions
    assert presets()[name].architecture.parameters == pytest.approx(1e9 * published, rel=tolerance)


def test_every_preset_but_the_demo_has_a_golden_size():
    assert set(presets()) - {"char-transformer-demo"} == set(GOLDEN) | set(ROUNDED)
    assert presets()["char-transformer-demo"].architecture.parameters < 200_000


def test_golden_sizes_agree_with_the_published_models():
    known = {row["parameters"] for row in PUBLISHED.values()}
    assert len(known & set(GOLDEN.values())) >= 20


# Nemotron-4: embedding and other parameters are printed apart (arXiv 2402.16819 table 1; 2406.11704 table 1).
@pytest.mark.parametrize(
    ("name", "embedding", "other"), [("nemotron-4-15b", 3.1, 12.5), ("nemotron-4-340b", 9.4, 331.6)]
)
def test_nemotron_splits_as_its_papers_print(name, embedding, other):
    arch = presets()[name].architecture
    tables = 2 * arch.vocab_size * arch.hidden_size / 1e9
    assert tables == pytest.approx(embedding, abs=0.06)
    assert arch.parameters / 1e9 - tables == pytest.approx(other, abs=0.06)


def test_every_preset_names_its_source_and_both_titles():
    for preset in presets().values():
        assert preset.title
        assert preset.title_zh
        assert preset.source_url.startswith(("https://", "examples/"))
        assert preset.training_tokens >= 0


def test_there_are_presets_for_everything_and_for_each_field():
    by_domain = {domain: [] for domain in DOMAINS}
    for preset in presets().values():
        by_domain[preset.domain].append(preset.name)
    assert len(by_domain["general"]) > 30
    assert by_domain["finance"] == ["bloomberggpt-50b"]
    assert by_domain["medicine"] == ["biogpt", "meditron-7b"]
    assert by_domain["law"] == ["saullm-7b"]
    assert by_domain["science"] == ["galactica-120b"]


def test_groups_are_those_that_the_pages_know():
    assert {preset.group for preset in presets().values()} == {"demo", "gpt", "llama", "qwen", "other"}


@pytest.mark.parametrize("name", ["llama-9", "", None, ["llama-2-7b"]])
def test_an_unknown_preset_is_answered_with_the_known_ones(name):
    with pytest.raises(InvalidInput) as caught:
        get_preset(name)
    assert caught.value.field == "model.preset"
    assert "llama-3.1-405b" in caught.value.allowed
