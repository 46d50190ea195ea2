"""The package stands alone: what it says it needs is what it imports, and what the checkout installs."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from django.conf import settings

import portalctl

ROOT = Path(settings.BASE_DIR)
PACKAGE = ROOT / "portalctl"
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))
IMPORTED_AS = {"pyyaml": "yaml"}


def test_it_needs_exactly_what_it_imports() -> None:
    imported: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    needed = {re.split(r"[>=<\[]", one)[0] for one in PROJECT["project"]["dependencies"]}
    others = imported - set(sys.stdlib_module_names) - {"portalctl"}
    assert others == {IMPORTED_AS.get(name, name) for name in needed}


def test_the_checkout_installs_the_same_ranges_and_the_documents_name_them() -> None:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = {*whole["dependencies"], *whole["optional-dependencies"]["dev"]}
    assert set(PROJECT["project"]["dependencies"]) <= installed
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for requirement in PROJECT["project"]["dependencies"]:
        assert f"**{re.split('[>=<]', requirement)[0]}**" in page


def test_every_file_of_it_is_in_the_wheel() -> None:
    listed = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    there = {path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "README.md", "pyproject.toml")}
    assert listed == there


def test_both_places_say_the_same_version() -> None:
    assert PROJECT["project"]["version"] == portalctl.__version__


def test_it_runs_from_a_checkout_without_being_installed_and_without_the_portal() -> None:
    words = "import sys, portalctl.app; print(sorted({n.partition('.')[0] for n in sys.modules} & {'django', 'jobs'}))"
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    done = subprocess.run(
        [sys.executable, "-m", "portalctl", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"portalctl {portalctl.__version__}\n"
