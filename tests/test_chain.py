"""The whole chain, end to end, in a clone: two classes, one image each, four steps; and what a user's mistakes do."""
import csv, json, os, shutil, subprocess, sys
from pathlib import Path
import pytest, yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
QUICK = dict(dataset="fashion-two", ipc=1, num_inference_steps=4, limit=40, real_per_class=40, real_points=20, per_class=4, generation_seeds=[0, 1], epochs_factor=0.002, eval_compile=False, methods=["random", "dit", "mgd3", "dap", "dap-mmd"])


def call(clone, *command, ok=True):
    "Run a command in the clone with the clone's own package; return its output."
    env = os.environ | {"PYTHONPATH": str(clone), "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def set_profile(clone, **values):
    params = yaml.safe_load((clone / "params.yaml").read_text())
    params["profile"] |= values
    (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def tree(clone):
    "Return every file outside .git and DVC's own folder, with its size."
    return {str(f.relative_to(clone)): f.stat().st_size for f in clone.rglob("*") if f.is_file() and not {".git", ".dvc", "__pycache__"} & set(f.relative_to(clone).parts)}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    path = tmp_path_factory.mktemp("clone") / "dap"
    subprocess.run(["git", "clone", "-q", ROOT, path], check=True)
    return path


@pytest.fixture(scope="module")
def finished(clone):
    set_profile(clone, **QUICK)
    call(clone, "dvc", "repro")
    return clone


def test_a_clone_shows_the_tables_without_running(clone):
    rows = list(csv.DictReader((clone / "results/default/table3.csv").open()))
    assert {r["method"] for r in rows} == {"random", "dit", "mgd3", "dap", "dap-mmd", "full"} and all(0 < float(r["final"]) <= 100 for r in rows)
    assert (clone / "results/default/gallery.png").stat().st_size > 10_000


@pytest.mark.parametrize("wrong, says", [
    (dict(gamma=-1.0), "gamma"), (dict(ipc=0), "ipc = 0"), (dict(layer="transformer_blocks.60"), "transformer_blocks.60"), (dict(dataset="fashon"), "fashon"),
    (dict(gama=2.0), "gama"), (dict(source="nowhere"), "nowhere"), (dict(backbone="assets/fashion-mnist"), "assets/fashion-mnist")], ids=str)
def test_a_mistake_in_the_profile_gives_one_line_and_changes_nothing(clone, wrong, says):
    params = (clone / "params.yaml").read_text()
    set_profile(clone, **wrong)
    before = tree(clone)
    try: said = call(clone, "dap", "check", ok=False)
    finally: (clone / "params.yaml").write_text(params)
    after = tree(clone); after["params.yaml"] = before["params.yaml"]
    assert says in said and len([line for line in said.splitlines() if line.startswith("error")]) == 1 and "Traceback" not in said
    assert after == before


def test_a_corrupt_image_of_a_tree_is_named_before_anything_runs(clone, tmp_path):
    import numpy as np
    from PIL import Image
    for split in ("train", "test"):
        for name in ("1-trouser", "8-bag"):
            (tmp_path / "real" / split / name).mkdir(parents=True)
            for i in range(4): Image.fromarray(np.random.default_rng(i).integers(0, 255, (28, 28, 3), np.uint8)).save(tmp_path / "real" / split / name / f"{i}.png")
    params = (clone / "params.yaml").read_text()
    set_profile(clone, dataset="fashion-two", source=str(tmp_path / "real"), data_format="folder", real_per_class=4, per_class=4, per_image=4, ipc=1, real_points=4, generation_seeds=[0, 1])
    try:
        assert "predicted in all" in call(clone, "dap", "check")
        torn = tmp_path / "real/test/8-bag/2.png"
        torn.write_bytes(torn.read_bytes()[:500])
        before = tree(clone)
        said = call(clone, "dap", "check", ok=False)
        assert "cannot read image" in said and str(torn) in said and "Traceback" not in said and tree(clone) == before
    finally: (clone / "params.yaml").write_text(params)


def test_the_quick_chain_makes_images_cells_and_tables(finished):
    made = finished / "results/default"
    for method in QUICK["methods"]:
        for seed in QUICK["generation_seeds"]: assert sorted(p.parent.name for p in (made / f"distilled/{method}/seed{seed}").glob("*/00000.png")) == ["1-trouser", "8-bag"]
    assert len(list((made / "cells").glob("*.json"))) == 10
    rows = list(csv.DictReader((made / "table3.csv").open()))
    assert list(rows[0]) == ["dataset", "arch", "ipc", "method", "generation_seed", "network_seed", "final", "best"] and len(rows) == 10
    assert list(next(csv.DictReader((made / "table3_paired.csv").open()))) == ["dataset", "arch", "ipc", "method", "baseline", "diff", "ci_low", "ci_high", "n"]
    ratios = json.loads((made / "distilled/dap/seed0/manifest.json").read_text())["shift_over_step"]
    assert len(ratios) == 4 and max(ratios.values()) > 1e-4


def test_a_second_run_does_nothing(finished):
    assert "Data and pipelines are up to date" in call(finished, "dvc", "repro") and "up to date" in call(finished, "dvc", "status", "dvc.yaml")


def test_forcing_the_core_chain_leaves_the_lock_as_it_was(finished):
    before = (finished / "dvc.lock").read_bytes()
    for stage in ("unpack", "encode", "bank", "distill", "evaluate", "table3", "figures", "report"): call(finished, "dvc", "repro", "-f", "-s", stage)
    assert (finished / "dvc.lock").read_bytes() == before


def test_papermill_by_hand_takes_other_parameters(finished):
    real = "results/default"
    call(finished, "papermill", "-k", "python3", "nbs/experiments/distill.ipynb", "mine.ipynb", "-p", "out", "mine", "-p", "ipc", "1", "-y", "methods: [dit]\ngeneration_seeds: [3]\ndataset: fashion-two\nworkers: 1",
         "-p", "num_inference_steps", "2", "-p", "real", f"{real}/real")
    assert (finished / "mine/dit/seed3/8-bag/00000.png").is_file()
    assert "no parameter 'ipcs'" in call(finished, "dap", "run", "nbs/experiments/distill.ipynb", "no.ipynb", "-p", "ipcs=1", ok=False) and not (finished / "no.ipynb").exists()


def test_a_corrupt_real_image_is_named(finished):
    shutil.copytree(finished / "results/default/real", finished / "broken")
    (finished / "broken/train/8-bag/00002.png").write_bytes(b"torn")
    said = call(finished, "dap", "run", "nbs/experiments/encode.ipynb", "e.ipynb", "-p", "dataset=fashion-two", "-p", "real_per_class=4", "-p", "real=broken", "-p", "out=e.safetensors", ok=False)
    assert "cannot read image" in said and "00002.png" in said and not (finished / "e.safetensors").exists()
