"""Who may import whom: pipelines -> components -> library, and nothing heavy at the start of the command line."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "src" / "radtransfer"
COMPONENTS = ROOT / "components"
HEAVY = {"torch", "torchvision", "timm", "sklearn", "matplotlib", "kfp", "pandas", "scipy", "skimage", "pyarrow"}


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Top-level packages that a file imports, anywhere in it or (``top_only``) when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield (node.module or "").split(".")[0]
        if not (top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            pending.extend(ast.iter_child_nodes(node))


def files(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("path", files(LIBRARY), ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_the_library_knows_neither_kfp_nor_what_stands_on_it(path: Path) -> None:
    used = set(imports(path))
    assert "kfp" not in used
    above = {"radtransfer_components", "radtransfer_pipelines"}
    if path in [LIBRARY / "cli" / name for name in ("runs.py", "cluster.py", "schedule.py")]:
        used = set(imports(path, top_only=True))  # commands that make runs reach up when they are called
    assert not used & above


@pytest.mark.parametrize("path", files(COMPONENTS), ids=lambda path: path.name)
def test_components_know_the_library_and_kfp_alone(path: Path) -> None:
    allowed = {"kfp", "radtransfer", "radtransfer_components"} | sys.stdlib_module_names
    assert set(imports(path)) <= allowed


@pytest.mark.parametrize("path", files(COMPONENTS), ids=lambda path: path.name)
def test_components_are_thin(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if "@dsl.component" in text:
        assert len(text.splitlines()) < 60


@pytest.mark.parametrize("path", files(ROOT / "pipelines"), ids=lambda path: path.name)
def test_pipelines_import_no_heavy_library_of_their_own(path: Path) -> None:
    assert not set(imports(path)) & (HEAVY - {"kfp"})


def test_the_command_line_starts_light() -> None:
    code = "import sys, json, radtransfer.cli; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not HEAVY & set(json.loads(run.stdout))


def test_top_only_sees_what_runs_at_import(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text("import a.b\nif True:\n    from c import d\ndef f():\n    import e\nclass G:\n    import h\n")
    assert set(imports(path, top_only=True)) == {"a", "c", "h"}
    assert set(imports(path)) == {"a", "c", "e", "h"}
