"""The rules of the house that no notebook can say of itself."""
import ast, os, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, pytest, yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LIBRARY = sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))
EXPERIMENTS = sorted((ROOT / "nbs/experiments").glob("*.ipynb"))
MODULES = sorted(p for p in (ROOT / "dap").glob("*.py") if not p.stem.startswith("_"))
NUMBER = {p.stem[3:]: int(p.stem[:2]) for p in LIBRARY}                    # kernels -> 1
named = pytest.mark.parametrize
stem = lambda p: p.stem


def need(*names):
    "Skip a test, aloud, whose file is not written yet."
    missing = [n for n in names if not (ROOT / n).exists()]
    return pytest.mark.skipif(bool(missing), reason=f"not written yet: {', '.join(missing)}")


def imported(path):
    "Return the names of the dap modules that a file imports anywhere, also inside functions."
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import): names |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            base = ".".join(["dap"] * bool(node.level) + [node.module] * bool(node.module))
            names |= {base} | {f"{base}.{a.name}" for a in node.names}
    return {n.split(".")[1] for n in names if n.startswith("dap.")} & set(NUMBER)


def loaded_after(module):
    "Import a module of dap in a fresh interpreter and return all that is loaded then."
    code = f"import sys, dap.{module}; print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return set(subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout.split())


def copy(tmp_path):
    "Copy what nbdev works on to a folder of its own."
    for d in ("nbs", "dap"): shutil.copytree(ROOT / d, tmp_path / d, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for f in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT / f, tmp_path / f)
    return tmp_path


def code_cells(path): return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def test_there_is_something_to_test():
    assert LIBRARY and len(NUMBER) == len(LIBRARY) and len(MODULES) >= 3 and (ROOT / "nbs/experiments").is_dir()


@named("path", MODULES, ids=stem)
def test_imports_go_down_the_numbers(path):
    assert path.stem in NUMBER, f"dap/{path.name} has no notebook"
    wrong = [m for m in imported(path) if NUMBER[m] >= NUMBER[path.stem]]
    assert not wrong, f"{path.name} ({NUMBER[path.stem]}) imports {wrong}"


@need("dap/sampling.py")
def test_sampling_imports_neither_guidance_nor_kernels():
    assert not {"guidance", "kernels"} & (imported(ROOT / "dap/sampling.py") | {m.removeprefix("dap.") for m in loaded_after("sampling")})


@named("module", [pytest.param(m, marks=need(f"dap/{m}.py")) for m in ("evaluate", "metrics")])
def test_scoring_loads_nothing_of_diffusion(module):
    loaded = loaded_after(module)
    assert f"dap.{module}" in loaded and "diffusers" not in loaded
    assert not {f"dap.{m}" for m in ("backbones", "bank", "sampling", "guidance", "distill", "prior", "pipeline")} & loaded


@need("dap/report.py")
def test_report_loads_no_torch():
    loaded = loaded_after("report")
    assert "dap.report" in loaded and "torch" not in loaded


def test_package_is_what_the_notebooks_export(tmp_path):
    subprocess.run([BIN / "nbdev_export"], cwd=copy(tmp_path), check=True)
    new, old = ({p.name: p.read_text() for p in (d / "dap").glob("*.py")} for d in (tmp_path, ROOT))
    assert len(new) > 3 and [n for n in sorted(new | old) if new.get(n) != old.get(n)] == []


def test_notebooks_are_clean(tmp_path):
    subprocess.run([BIN / "nbdev_clean"], cwd=copy(tmp_path), check=True)
    found = sorted(p.relative_to(tmp_path) for p in (tmp_path / "nbs").rglob("*.ipynb"))
    assert len(found) >= len(LIBRARY) and [str(f) for f in found if (tmp_path / f).read_text() != (ROOT / f).read_text()] == []


@named("path", LIBRARY, ids=stem)
def test_library_notebook_is_committed_with_outputs(path):
    assert any(c.outputs for c in code_cells(path)), "run make notebooks"


@named("path", LIBRARY, ids=stem)
def test_outputs_of_library_notebooks_hold_no_error_and_no_stderr(path):
    assert not [o for c in code_cells(path) for o in c.outputs if o.output_type == "error" or o.get("name") == "stderr"]


@named("path", EXPERIMENTS, ids=stem)
def test_experiment_is_committed_without_outputs(path):
    assert not any(c.outputs or c.execution_count for c in code_cells(path))


@named("path", EXPERIMENTS, ids=stem)
def test_experiment_has_one_parameters_cell(path):
    assert sum("parameters" in c.metadata.get("tags", []) for c in code_cells(path)) == 1


@named("path", EXPERIMENTS, ids=stem)
def test_experiment_defines_nothing_and_exports_nothing(path):
    source = "\n".join(re.sub(r"^[ \t]*[%!].*", "", c.source, flags=re.M) for c in code_cells(path))
    kinds = {type(n) for n in ast.walk(ast.parse(source))}
    assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef} and not re.search(r"^#\|\s*(export|default_exp)", source, re.M)


@need("nbs/index.ipynb", "README.md")
def test_readme_is_the_index():
    sys.path.insert(0, str(ROOT / "docs"))
    try: from readme import readme
    finally: sys.path.pop(0)
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(), "run make notebooks"


@need("docs/conf.py")
@named("path", [*LIBRARY, *EXPERIMENTS], ids=stem)
def test_every_formula_can_be_shown_offline(path):
    sys.path.insert(0, str(ROOT / "docs"))
    try: from conf import mathml
    finally: sys.path.pop(0)
    text = "\n".join(re.sub(r"`[^`]*`", "", c.source) for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    for m in re.finditer(r"\$\$(.+?)\$\$|(?<![\\$])\$([^$\n]+?)\$", text, re.S): assert "<math" in mathml(m[1] or m[2], "inline")


@need("conf/config.yaml", "params.yaml")
def test_params_are_the_composed_default_profile():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    with initialize_config_dir(str(ROOT / "conf"), version_base=None): want = OmegaConf.to_container(compose("config"), resolve=True)
    assert want and yaml.safe_load((ROOT / "params.yaml").read_text()) == want


def test_no_file_names_a_place_on_a_machine():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    place = re.compile(r"(?<![\w.~/-])/(?:home|root|work|tmp|Users|opt|mnt|scratch)/\w[^\s\"']*")
    texts = {}
    for name in listed:
        try: texts[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError): pass
    assert "settings.ini" in texts and [f"{n}: {m[0]}" for n, t in texts.items() if (m := place.search(t))] == []


@named("path", MODULES, ids=stem)
def test_no_function_is_longer_than_sixty_lines(path):
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert functions and [f"{n.name}: {n.end_lineno - n.lineno + 1}" for n in functions if n.end_lineno - n.lineno >= 60] == []
