"""The built wheel, alone, can load the embedded priors and the judge."""
import os, shutil, subprocess, sys, sysconfig, zipfile
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = [ROOT / "assets/mini-dit", ROOT / "assets/mini-sd", ROOT / "assets/judge"]
missing = [n for n in ("assets/mini-dit/model_index.json", "dap/backbones.py", "README.md") if not (ROOT / n).exists()]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing), reason=f"not written yet: {', '.join(missing)}")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "Build the wheel from a copy of the sources, so that nothing is left in the checkout."
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for f in ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"): shutil.copy(ROOT / f, source)
    for d in ("dap", "assets/mini-dit", "assets/mini-sd", "assets/judge"): shutil.copytree(ROOT / d, source / d, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", dist, source], check=True)
    return next(dist.glob("dap-*.whl"))


def test_wheel_holds_what_ships_and_the_licences(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    shipped = [{f"dap/assets/{folder.name}/{p.relative_to(folder).as_posix()}" for p in folder.rglob("*") if p.is_file()} for folder in SHIPPED]
    assert all(files and files <= set(names) for files in shipped) and {"LICENSE", "NOTICE"} <= {Path(n).name for n in names}
    assert {f"dap/{p.name}" for p in (ROOT / "dap").glob("*.*") if p.is_file()} <= set(names)


def test_installed_wheel_loads_what_ships(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    site = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    places = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (site / "dependencies.pth").write_text("\n".join(places) + "\n")     # torch and the others; dap itself comes from the wheel
    code = """if True:
        import dap.backbones, torch
        from pathlib import Path
        for name in ("mini-dit", "mini-sd"):
            backbone = dap.backbones.load_backbone(name)
            x = torch.zeros(1, *backbone.latent_shape, device=backbone.device)
            assert torch.isfinite(backbone.decode(x)).all()
        from dap.cli import shipped_judge
        from dap.metrics import Judge
        folder, size, classes = shipped_judge()
        assert len(Judge(folder, "cpu").labels(torch.zeros(2, 3, size, size, dtype=torch.uint8))) == 2 and len(classes) == 10
        print(Path(dap.__file__).resolve())"""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.split()[-1]).is_relative_to(site.resolve())
