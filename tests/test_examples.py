"""The notebooks of nbs/examples run as a user runs them, and write nothing outside the folder they are given."""
from pathlib import Path
import pytest
from dap.runner import declared, run_notebook

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "nbs/examples").glob("*.ipynb"))


def test_there_is_one_for_each_thing_to_bring():
    assert {p.stem for p in EXAMPLES} == {f"own_{what}" for what in ("data", "backbone", "kernel", "guide", "network")}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    where = {"work": str(tmp_path / "work")} if "work" in declared(path) else {}
    run_notebook(path, tmp_path / path.name, where)
    assert (tmp_path / path.name).is_file()
