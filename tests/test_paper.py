"""The paper's profile, as it is committed, on a miniature of ImageNet: only paths and widths are other ones."""
import csv, json, os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
WIDTHS = {"image_size": 64, "img_size": 128, "score_size": 32, "ipc": 2, "num_inference_steps": 4, "per_class": 4, "real_points": 3, "generation_seeds": "[0,1]", "epochs_factor": 0.001, "looks": 1}


def run(clone, *command, ok=True):
    "Run a command in the clone with the clone's own package; return its output."
    env = os.environ | {"PYTHONPATH": str(clone), "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([str(c) for c in command], cwd=clone, env=env, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    "Ten folders of JPEGs of mixed sizes, grey and CMYK among them, in a tree like ImageNet's."
    from dap.data import class_list
    root, draw = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, n in (("train", 6), ("val", 3)):
        for k, wnid in enumerate(class_list("imagenette")):
            (root / split / wnid).mkdir(parents=True)
            for i in range(n):
                w, h = draw.integers(70, 160, 2)
                low = draw.integers(0, 255, (4, 4, 3), np.uint8); low[..., k % 3] = 25 * k
                Image.fromarray(low).resize((int(w), int(h)), Image.Resampling.BICUBIC).convert(("RGB", "L", "CMYK")[i % 3]).save(root / split / wnid / f"{wnid}_{i}.JPEG")
    return root


@pytest.fixture(scope="module")
def tiny_dit(tmp_path_factory):
    "An ordinary DiTPipeline folder with ImageNet's thousand labels, ten blocks and random weights."
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
    torch.manual_seed(0)
    net = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=10, sample_size=8, patch_size=2, num_embeds_ada_norm=1000)
    vae = AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4)
    folder = tmp_path_factory.mktemp("weights") / "tiny-dit"
    DiTPipeline(net, vae, DDIMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, imagenet, tiny_dit):
    clone = tmp_path_factory.mktemp("clone") / "dap"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    given = {"source": imagenet, "backbone": tiny_dit} | WIDTHS
    said = run(clone, "dvc", "exp", "run", "-S", "profile=paper", *(x for k, v in given.items() for x in ("-S", f"profile.{k}={v}")))
    return clone, said, given


def test_the_committed_profile_runs_end_to_end(finished):
    made = finished[0] / "results/paper"
    rows = list(csv.DictReader((made / "table3.csv").open()))
    assert {(r["dataset"], r["arch"], r["ipc"]) for r in rows} == {("imagenette", "convnet6", "2")} and {r["method"] for r in rows} == {"random", "dit", "mgd3", "dap", "dap-mmd"}
    assert len(rows) == 10 and all(0 <= float(r["final"]) <= 100 for r in rows)
    for name in ("table3.md", "report.md", "scores.csv", "gallery.png", "tsne.png"): assert (made / name).stat().st_size > 200
    with Image.open(next((made / "distilled/dap/seed0").glob("n*/00000.png"))) as image: assert image.size == (64, 64) and image.mode == "RGB"


def test_nothing_but_paths_and_widths_was_changed(finished):
    clone, _, given = finished
    committed, ran = (yaml.safe_load(f.read_text()) for f in (ROOT / "conf/profile/paper.yaml", clone / "params.yaml"))
    assert {k: v for k, v in ran["profile"].items() if k not in given} == {k: v for k, v in committed.items() if k not in given}
    settings = json.loads(next((clone / "results/paper/cells").glob("*-dap-g0-*.json")).read_text())
    assert settings["protocol"] == "minimax" and settings["resolved"]["optimizer"] == "sgd" and settings["resolved"]["reported"]
    guide = json.loads((clone / "results/paper/distilled/dap/seed0/manifest.json").read_text())["guide"]
    assert guide["layer"] == "transformer_blocks.8" and guide["scale"] == 1.0 and guide["pairing"] == "own"


def test_check_looks_first_and_refuses(finished, imagenet):
    clone, _, _ = finished
    said = run(clone, "dap", "check")
    assert "predicted in all" in said and "GB in bfloat16" in said and "hours of an H100" in said and "terms of its own" in said
    torn = next((imagenet / "train").glob("*/*_1.JPEG")); whole = torn.read_bytes()
    torn.write_bytes(whole[:200])
    try: said = run(clone, "dap", "check", ok=False)
    finally: torn.write_bytes(whole)
    assert "cannot read image" in said and torn.name in said and "Traceback" not in said
    params = (clone / "params.yaml").read_text()
    for wrong, says in (({"real_points": 4}, "real_points = 4"), ({"per_class": 7}, "need 7")):
        changed = yaml.safe_load(params); changed["profile"] |= wrong
        (clone / "params.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
        try: assert says in run(clone, "dap", "check", ok=False)
        finally: (clone / "params.yaml").write_text(params)


def test_soft_labels_of_a_teacher_of_that_tree(finished):
    clone, _, _ = finished
    run(clone, "dap", "run", "nbs/experiments/judge.ipynb", "teacher.ipynb", "-p", "arch=resnet18_in", "-p", "epochs_factor=0.1", "-p", "img_size=128", "-p", "real=results/paper/real", "-p", "out=teacher")
    run(clone, "dap", "run", "nbs/experiments/evaluate.ipynb", "soft.ipynb", "-s", "profile", "-p", "protocol=rded", "-p", "teacher=teacher", "-p", "epochs_factor=0.01", "-p", "methods=[random,dap]", "-p", "generation_seeds=[0]",
        "-p", "real=results/paper/real", "-p", "distilled=results/paper/distilled", "-p", "out=soft")
    cell = json.loads(next((clone / "soft").glob("*-dap-g0-*.json")).read_text())
    assert cell["protocol"] == "rded" and cell["resolved"]["label"] == "soft" and cell["resolved"]["temperature"] == 20 and cell["options"]["teacher"]


def test_no_code_asks_which_profile_it_is():
    import ast
    for f in [*(ROOT / "dap").glob("*.py")]:
        for node in ast.walk(ast.parse(f.read_text())):
            if isinstance(node, ast.Compare): assert not {"default", "paper"} & {v.value for v in ast.walk(node) if isinstance(v, ast.Constant) and isinstance(v.value, str)}, f"{f.name}:{node.lineno}"


def test_the_papers_grid(finished):
    "A part of conf/full/paper.yaml at the same widths: fine-tuning, surrogates, all methods of Table 3, cells, a table with its verdict."
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    clone, _, given = finished
    before = yaml.safe_load((clone / "params.yaml").read_text())
    with initialize_config_dir(str(ROOT / "conf"), version_base=None): full = OmegaConf.to_container(compose("config", overrides=["profile=paper", "full=paper"]).full, resolve=True)
    small = {"ipc": 2, "generation_seeds": [0, 1]}
    full |= {"banks": {"nette-10": full["banks"]["nette-10"] | {"ipc": 2, "per_class": 4}}, "sets": {k: full["sets"][k] | small for k in ("nette-10", "gamma")},
             "cells": {k: full["cells"][k] for k in ("nette-10-resnetap10", "gamma")}, "tables": {"gamma": full["tables"]["gamma"] | {"generation_seeds": [0, 1]}},
             "surrogates": {"nette": full["surrogates"]["nette"] | {"epochs_factor": 0.2, "keep_epochs": [1, 2], "gradient_images": 6}},
             "minimax": {"nette": full["minimax"]["nette"] | {"source": str(given["backbone"]), "image_size": 64, "num_inference_steps": 4, "n_samples": 10}}} | dict.fromkeys(("whole", "encoded", "fig5"), {})
    (clone / "params.yaml").write_text(yaml.safe_dump(before | {"profile": before["profile"] | {"matching": {"steps": 2}, "influence": {"per_class": 6}}, "full": full}, sort_keys=False))
    said = run(clone, "dap", "check", "--grid")
    assert "distill nette-10" in said and "bank nette-10" in said and "hours of an H100" in said
    run(clone, "dvc", "repro", "full/dvc.yaml:table@gamma", "full/dvc.yaml:claims")
    rows = list(csv.DictReader((clone / "results/paper/claims.csv").open()))
    assert [r["paper_item"] for r in rows] == ["ablation of γ"] * 2 and rows[1]["paper_value"] == "67.800"
    for r in rows: assert r["verdict"] == ("holds" if float(r["ci_low"]) > 0 else "does not" if float(r["ci_high"]) < 0 else "cannot tell") and float(r["ci_low"]) <= float(r["diff"]) <= float(r["ci_high"]) and r["n"] == "2"
    assert {p.name for p in (clone / "results/paper-full/distilled/nette-10").iterdir()} >= {"random", "dm", "dit", "minimax", "igd", "mgd3", "dap"}
    for part, wrong, says in (("tables", {"gamma": full["tables"]["gamma"] | {"wanted": {"nette-10": None}}}, "table gamma asks for cells 'nette-10'"), ("sets", {k: v | {"sampler": "dpm-solver++"} for k, v in full["sets"].items()}, "visits t = "), ("banks", {"nette-10": full["banks"]["nette-10"] | {"layer": "transformer_blocks.10"}}, "transformer_blocks.10")):
        (clone / "params.yaml").write_text(yaml.safe_dump(before | {"full": full | {part: wrong}}, sort_keys=False))
        try: assert says in run(clone, "dap", "check", "--grid", ok=False)
        finally: (clone / "params.yaml").write_text(yaml.safe_dump(before, sort_keys=False))
