"""The architecture of a published run, from the dimensions and the name in its row."""

import re
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from jobs.estimation.architecture import Architecture
from jobs.estimation.presets import presets
from jobs.estimation.run_cells import Cells
from jobs.estimation.validation import InvalidInput

# Names in the sources that don't contain the preset's: pattern of the squeezed name, squeezed preset.
_PRESET_ALIASES: Final = (
    (r"deepseekv?3.*16b|deepseekv2lite|deepseekv?2.*16b", "deepseekv2lite"),
    (r"deepseekv?2.*236b|^deepseekv2$", "deepseekv2"),
    (r"deepseekv?3", "deepseekv3"),
    (r"llama4maverick", "llama4maverick"),
    (r"llama4scout", "llama4scout"),
    (r"qwen257b", "qwen257ba14b"),
    (r"^(?:code)?g(?:lm|eex)[23]6b", "chatglm36b"),
)
# Where a head is not hidden / heads wide (each model's config.json).
_HEAD_WIDTHS: Final = ((r"qwen3", 128), (r"gemma", 256), (r"gptoss", 64), (r"palm", 256), (r"mistralnemo", 128))
_VOCABULARIES: Final = {"gpt": 50304, "llama": 32000, "moe": 32000, "bert": 30528}
_SEQUENCES: Final = {"gpt": 2048, "bert": 512}
_PLAUSIBLE: Final = 0.01
"""Part by which the parameters may miss params_b before another variant of the family is tried."""
_SAME_MODEL: Final = 0.1
_WIDEST_TIED: Final = 4096
_USUAL_HEAD: Final = 128


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def read_architecture(cells: Cells) -> tuple[Architecture, str]:
    """The architecture, and the preset's name if it rests on one."""
    family = cells.words("arch_family")
    if family not in ("gpt", "llama", "moe", "bert", "hybrid-moe", "dense", "encoder", ""):
        raise InvalidInput("arch_family", family, "gpt, llama, moe, bert or hybrid-moe")
    names = ("layers", "hidden", "heads", "kv_heads", "ffn_hidden", "vocab", "experts", "topk", "seq_len")
    values = tuple(cells.integer(name, maximum=10**8) for name in names)
    params_b = cells.number("params_b", maximum=1e7)
    sequence = values[-1]
    if sequence is None:
        sequence = _SEQUENCES.get(family, 4096)
        cells.assume("seq_len", sequence, f"usual for {family or 'decoders'}")
    architecture, preset, assumed = _choose_architecture(
        _squeeze(cells.text("model")), family, params_b, *values[:-1], sequence
    )
    cells.assumed += assumed
    return architecture, preset


@lru_cache(maxsize=4096)
def _choose_architecture(
    model: str,
    family: str,
    params_b: float | None,
    layers: int | None,
    hidden: int | None,
    heads: int | None,
    kv_heads: int | None,
    ffn_hidden: int | None,
    vocab: int | None,
    experts: int | None,
    topk: int | None,
    sequence: int,
) -> tuple[Architecture, str, tuple[str, ...]]:
    known = _find_preset(
        model, params_b, layers=layers, hidden=hidden, heads=heads, ffn_hidden=ffn_hidden, experts=experts
    )
    if known is not None:
        return _adapt(known[1], layers=layers, vocab=vocab, sequence=sequence), known[0], ()
    if family == "hybrid-moe":
        raise InvalidInput("arch_family", family, "a transformer: state-space layers are not modelled")
    layers, hidden = _require_dimension("layers", layers), _require_dimension("hidden", hidden)
    assumed = []
    if heads is None:
        heads = max(1, hidden // _USUAL_HEAD)
        assumed.append(f"heads={heads}: of {_USUAL_HEAD}, as is usual")
    if vocab is None:
        vocab = _VOCABULARIES.get(family, 32000)
        assumed.append(f"vocab={vocab}: usual for the family")
    if ffn_hidden is None:
        ffn_hidden = 4 * hidden if family in ("gpt", "bert") else -(-8 * hidden // 3 // 64) * 64
        assumed.append(f"ffn_hidden={ffn_hidden}: usual for the family")
    if kv_heads is not None and heads % kv_heads:
        raise InvalidInput("kv_heads", kv_heads, f"a divisor of heads ({heads})")
    head_width = next((width for pattern, width in _HEAD_WIDTHS if re.search(pattern, model)), None)
    if head_width is None and hidden % heads:
        raise InvalidInput("heads", heads, f"a divisor of hidden ({hidden})")
    base = Architecture(
        family={"gpt": "gpt2", "bert": "bert", "moe": "mixtral"}.get(family, "llama"),
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=ffn_hidden,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        head_dim=head_width or hidden // heads,
        vocab_size=vocab,
        max_position_embeddings=sequence,
        is_causal=family != "bert",
    )
    if experts is not None:
        chosen, why = _solve_experts(base, params_b, experts=experts, topk=topk)
    elif family == "moe":
        raise InvalidInput("experts", "", "a number: the row names no mixture of experts that is known")
    else:
        chosen, why = _choose_variant(base, params_b, family, has_kv_heads=kv_heads is not None)
    return chosen, "", (*assumed, *why)


def _require_dimension(column: str, value: int | None) -> int:
    if value is None:
        raise InvalidInput(column, "", "a number: the row names no model whose dimensions are known")
    return value


def _find_preset(
    model: str,
    params_b: float | None,
    *,
    layers: int | None,
    hidden: int | None,
    heads: int | None,
    ffn_hidden: int | None,
    experts: int | None,
) -> tuple[str, Architecture] | None:
    """The preset whose name the row's contains, if the row's dimensions are the preset's."""
    wanted = next((preset for pattern, preset in _PRESET_ALIASES if re.search(pattern, model)), model)
    by_length = sorted(presets().values(), key=lambda preset: -len(preset.name))
    for preset in by_length:
        if _squeeze(preset.name) not in wanted:
            continue
        item = preset.architecture
        widths = {item.intermediate_size, item.expert_intermediate_size}
        pairs = ((hidden, {item.hidden_size}), (heads, {item.num_attention_heads}), (experts, {item.num_experts}))
        if any(given is not None and given not in allowed for given, allowed in pairs):
            continue
        if ffn_hidden is not None and ffn_hidden not in widths and not item.num_experts:
            continue
        # A model of another depth (a proxy) has another size; of this depth it must have the preset's.
        is_whole = layers is None or layers == item.num_hidden_layers
        is_same = params_b is not None and abs(item.parameters / (params_b * 1e9) - 1) <= _SAME_MODEL
        if not is_same and params_b is not None and (is_whole or hidden is None):
            continue
        return preset.name, item
    return None


def _adapt(known: Architecture, *, layers: int | None, vocab: int | None, sequence: int) -> Architecture:
    """A preset with the row's depth (proxy models), padded vocabulary and sequence."""
    changes: dict[str, Any] = {"max_position_embeddings": max(sequence, known.max_position_embeddings)}
    if known.learned_position_rows:
        changes["learned_position_rows"] = max(sequence, known.learned_position_rows)
    if vocab is not None:
        changes["vocab_size"] = vocab
    if layers is not None and layers != known.num_hidden_layers:
        dense = known.num_hidden_layers - known.num_moe_layers
        changes["num_hidden_layers"] = layers
        if known.num_moe_layers:
            # A cut model keeps one dense layer at most where the full one has several (DeepSeek-V3: 3 of 61).
            changes["num_moe_layers"] = max(1, layers - dense) if layers > dense else 1
        changes["sliding_window_layers"] = known.sliding_window_layers * layers // known.num_hidden_layers
    return replace(known, **changes)


def _choose_variant(
    base: Architecture, params_b: float | None, family: str, *, has_kv_heads: bool
) -> tuple[Architecture, list[str]]:
    """Gated MLP or not, tied embeddings or not, and grouped queries where the row prints no key heads.

    As usual for the family, unless params_b says otherwise.
    """
    candidates = _list_variants(base, family, has_kv_heads=has_kv_heads)
    usual = candidates[0]
    if params_b is None:
        return usual, [f"architecture={_describe_variant(usual)}: usual for the family"]

    def miss(item: Architecture) -> float:
        return abs(item.parameters / (params_b * 1e9) - 1)

    best = usual if miss(usual) <= _PLAUSIBLE else min(candidates, key=miss)
    if miss(best) > _SAME_MODEL:
        return usual, [f"params_b={usual.parameters / 1e9:.4g}: the row's dimensions give it, not {params_b:g}"]
    if best is usual:
        return best, [] if has_kv_heads else [f"kv_heads={best.num_key_value_heads}: as many as heads"]
    return best, [f"architecture={_describe_variant(best)}: reproduces params_b"]


def _list_variants(base: Architecture, family: str, *, has_kv_heads: bool) -> list[Architecture]:
    """Shapes with the row's dimensions, the family's usual one first."""
    is_gpt = family in ("gpt", "bert")
    # Large Llama-like models have an output projection of their own; only small ones tie it.
    can_tie = is_gpt or base.hidden_size <= _WIDEST_TIED
    groups = [base.num_key_value_heads]
    if not has_kv_heads:
        groups += [count for count in (8, 4, 2, 1) if base.num_attention_heads % count == 0]
    variants = [
        replace(_vary(base, gated=gated), tied_embeddings=tied, num_key_value_heads=count)
        for count in groups
        for gated in ((False, True) if is_gpt else (True, False))
        for tied in ((True, False) if is_gpt else (False, True))
        if can_tie or not tied
    ]
    if is_gpt:
        variants.append(replace(variants[0], learned_position_rows=base.max_position_embeddings))
    return variants


def _describe_variant(item: Architecture) -> str:
    kind = "gated" if item.gated_mlp else "plain"
    tie = "tied" if item.tied_embeddings else "untied"
    positions = f", {item.learned_position_rows} learned positions" if item.learned_position_rows else ""
    return f"{kind} MLP, {tie} embeddings, {item.num_key_value_heads} key heads{positions}"


def _vary(base: Architecture, *, gated: bool) -> Architecture:
    if gated:
        return replace(base, gated_mlp=True, norm_vectors=1)
    return replace(base, gated_mlp=False, norm_vectors=2, qkv_bias=True, attention_output_bias=True, mlp_bias=True)


def _solve_experts(
    base: Architecture, params_b: float | None, *, experts: int, topk: int | None
) -> tuple[Architecture, list[str]]:
    """A mixture with experts in every layer, as wide as ffn_hidden, or as params_b asks for."""
    per_token = topk or 2
    assumed = [] if topk else [f"topk={per_token}: usual"]
    if per_token > experts:
        raise InvalidInput("topk", per_token, f"at most experts ({experts})")

    def mixture(width: int) -> Architecture:
        return replace(
            base,
            num_moe_layers=base.num_hidden_layers,
            num_experts=experts,
            experts_per_token=per_token,
            expert_intermediate_size=width,
        )

    usual = mixture(base.intermediate_size)
    if params_b is None or abs(usual.parameters / (params_b * 1e9) - 1) <= _SAME_MODEL:
        return usual, assumed
    # Parameters grow linearly in the width.
    narrow = mixture(64)
    slope = (usual.parameters - narrow.parameters) / (base.intermediate_size - 64)
    width = 64 * max(1, round((64 + (params_b * 1e9 - narrow.parameters) / slope) / 64))
    return mixture(width), [*assumed, f"expert_width={width}: reproduces params_b"]
