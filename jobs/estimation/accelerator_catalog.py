"""The catalogue of accelerators (catalog/accelerators.toml): by code, or by any name that logs and tables print.

Reading the whole file takes 20 ms, one entry 0.3: entries are read one by one, when asked for.
"""

import difflib
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from typing import Any, Final

from jobs.estimation.accelerator import Accelerator
from jobs.estimation.catalog_files import CATALOG
from jobs.estimation.validation import InvalidInput

GIB: Final = 2**30
FILE_NAME: Final = "accelerators.toml"

_TABLE: Final = re.compile(r"^\[(\w+)\.([\w-]+)\]$", re.MULTILINE)
_ALIASES: Final = re.compile(r"^aliases = (\[.*\])$", re.MULTILINE)
# Key of the file -> field of Accelerator and factor to its unit.
_CONVERSIONS: Final = {
    "memory_gib": ("memory_bytes", GIB),
    "memory_gbyte": ("memory_bytes", 1e9),
    "runtime_overhead_gib": ("runtime_overhead_bytes", GIB),
    "memory_gbyte_per_s": ("memory_bytes_per_s", 1e9),
    "intra_node_gbyte_per_s": ("intra_node_bytes_per_s", 1e9),
    "peer_gbyte_per_s": ("peer_bytes_per_s", 1e9),
    "inter_node_gbyte_per_s": ("inter_node_bytes_per_s", 1e9),
    "host_gbyte_per_s": ("host_bytes_per_s", 1e9),
}

# Words that a name may have or not.
_NOISE: Final = re.compile(
    r"nvidia|tesla|geforce|amd|instinct|radeon|huawei|intel|habana|google|cloud|aws|hygon|cambricon|moore|threads"
    r"|sxm\d?|gpu|npu|accelerator"
)
_CHINESE: Final = {
    "昇腾": "ascend ",
    "申威": "sw",
    "神威": "sw",
    "寒武纪": "",
    "思元": "mlu",
    "海光": "dcu ",
    "深算": "dcu ",
    "摩尔线程": "mtt ",
    "沐曦": "metax ",
    "曦云": "",
    "昆仑芯": "kunlunxin ",
    "天数智芯": "",
    "燧原": "enflame ",
    "壁仞": "biren ",
    "英伟达": "",
    "华为": "",
    "天河": "tianhe ",
}


class AcceleratorCatalog(Mapping[str, Accelerator]):
    """Accelerators by code, in the file's order; each is built when it is first asked for."""

    def __init__(self, text: str) -> None:
        marks = list(_TABLE.finditer(text))
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        self._bodies: dict[tuple[str, str], str] = {
            (mark[1], mark[2]): text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)
        }
        self._codes = dict.fromkeys(name for group, name in self._bodies if group == "accelerator")
        self._built: dict[str, Accelerator] = {}

    def __getitem__(self, code: str) -> Accelerator:
        if code not in self._codes:
            raise KeyError(code)
        if code not in self._built:
            self._built[code] = self._build(code)
        return self._built[code]

    def __contains__(self, code: object) -> bool:
        return code in self._codes

    def __iter__(self) -> Iterator[str]:
        return iter(self._codes)

    def __len__(self) -> int:
        return len(self._codes)

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Code by normalised name, for every code and alias."""
        names = {normalise_name(code): code for code in self._codes}
        for code, aliases in self._read_aliases().items():
            for alias in aliases:
                names.setdefault(normalise_name(alias), code)
                names.setdefault(normalise_name(_drop_parentheses(alias)), code)
        return names

    def _read_aliases(self) -> dict[str, list[str]]:
        """All aliases without reading the entries they stand in."""
        found = {code: _ALIASES.search(self._bodies["accelerator", code]) for code in self._codes}
        return tomllib.loads("\n".join(f'"{code}" = {match[1]}' for code, match in found.items() if match))

    def _build(self, code: str) -> Accelerator:
        entry = tomllib.loads(self._bodies["accelerator", code])
        values: dict[str, Any] = {"code": code, "scale_up_devices": entry["devices_per_node"]}
        for key, value in entry.items():
            name, factor = _CONVERSIONS.get(key, (key, None))
            values[name] = value if factor is None else factor * value
        values["peak_flop_per_s"] = {name: 1e12 * peak for name, peak in values.pop("peak_tflop_per_s").items()}
        values |= {name: round(values[name]) for name in ("memory_bytes", "runtime_overhead_bytes")}
        values |= {name: tuple(values[name]) for name in ("aliases", "allowed_device_counts")}
        return Accelerator(**values)


@cache
def accelerators() -> AcceleratorCatalog:
    """All accelerators that ship with the library, by code."""
    return AcceleratorCatalog((CATALOG / FILE_NAME).read_text(encoding="utf-8"))


def normalise_name(name: str) -> str:
    """A name without case, spaces, punctuation, vendor and "SXM": "NVIDIA A100-SXM4-80GB" becomes "a10080g"."""
    text = unicodedata.normalize("NFKC", name).casefold()
    for chinese, english in _CHINESE.items():
        text = text.replace(chinese, f" {english}")
    joined = "".join(word for word in re.findall(r"[^\W_]+", text) if not _NOISE.fullmatch(word))
    return re.sub(r"(?<=\d)gi?b", "g", joined)


def _drop_parentheses(name: str) -> str:
    return re.sub(r"\([^()]*\)", " ", unicodedata.normalize("NFKC", name))


def find_accelerator(name: object, *, field_name: str = "machine.accelerator") -> Accelerator:
    """Return the accelerator with this code or name; InvalidInput names close matches.

    Case, spaces, dashes, the vendor's name and remarks in parentheses don't matter.
    """
    catalog = accelerators()
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        raise InvalidInput(
            field_name, name, "a code or name of an accelerator, such as " + ", ".join(list(catalog)[:5])
        )
    if name in catalog:
        return catalog[name]
    for candidate in (name, _drop_parentheses(name)):
        code = catalog.names.get(normalise_name(candidate))
        if code is not None:
            return catalog[code]
    raise InvalidInput(field_name, name, _describe_close_matches(name, catalog))


def _describe_close_matches(name: str, catalog: AcceleratorCatalog) -> str:
    wanted = normalise_name(_drop_parentheses(name))
    close = [known for known in catalog.names if len(wanted) >= 3 and (wanted in known or known.startswith(wanted))]
    close += difflib.get_close_matches(wanted, catalog.names, n=6, cutoff=0.6)
    codes = list(dict.fromkeys(catalog.names[known] for known in close))[:6]
    if codes:
        return "a code or name of an accelerator; close to it: " + ", ".join(codes)
    return "one of " + ", ".join(catalog)


def get_accelerator(code: object, *, field_name: str = "machine.accelerator") -> Accelerator:
    """Return an accelerator of the catalogue by code or name; raises InvalidInput."""
    return find_accelerator(code, field_name=field_name)
