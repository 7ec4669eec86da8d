"""The judge's two commands on folders that nothing here made: the same folder twice, a hand-picked one, bad ones."""
import hashlib, inspect, json, os, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from typer.testing import CliRunner
import dap.evaluate, dap.metrics
from dap.cli import app
from dap.data import FASHION, RealImages, folder_hash, unpack

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--seeds", "0,1", "--epochs-factor", "0.0005")
DIFFUSION = {"diffusers", "transformers", *(f"dap.{m}" for m in ("backbones", "bank", "sampling", "guidance", "distill", "prior", "pipeline"))}
named = pytest.mark.parametrize
scoring = pytest.mark.skipif(not hasattr(dap.metrics, "extractor_of"), reason="dap.metrics knows no extractors by name yet")


def call(*args): return CliRunner().invoke(app, list(map(str, args)))


def error(done):
    "Return the one line that a refused command says; progress bars end in a carriage return."
    lines = [line for line in done.stderr.split("\r")[-1].splitlines() if line]
    assert done.exit_code == 1 and len(lines) == 1 and lines[0].startswith("error: "), done.output
    return lines[0]


def tree(folder):
    "Return every path of a folder with what it holds."
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for p in folder.rglob("*")}


def afresh(*lines):
    "Run commands of dap in a new process, each a list of arguments; return the modules that are loaded at the end."
    code = "import sys, json; from typer.testing import CliRunner; from dap.cli import app\nfor line in json.loads(sys.argv[1]):\n    done = CliRunner().invoke(app, line); assert done.exit_code == 0, done.output\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, json.dumps([list(map(str, line)) for line in lines])], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def real(tmp_path_factory): return unpack(ROOT / "assets/fashion-mnist", tmp_path_factory.mktemp("real"), limit=24)


@pytest.fixture(scope="module")
def hand(real, tmp_path_factory):
    "Ten real images a class as JPEG under odd names, with what file managers leave behind."
    out = tmp_path_factory.mktemp("judged") / "my set, picked by hand"
    for i, (path, label) in enumerate(RealImages(real / "train", per_class=10).samples):
        place = out / FASHION[label] / f"Größe {i} (copy).{('jpg', 'JPG', 'jpeg')[i % 3]}"
        place.parent.mkdir(parents=True, exist_ok=True); Image.open(path).save(place, "JPEG", quality=95)
    for f in (".DS_Store", f"{FASHION[0]}/.DS_Store", f"{FASHION[0]}/._Größe 0 (copy).jpg", f"{FASHION[1]}/Thumbs.db", "preview.png"): (out / f).write_bytes(b"not an image")
    (out / ".thumbnails").mkdir()
    return out


@pytest.fixture(scope="module")
def judged(hand, real, tmp_path_factory):
    "Judge the folder in two processes, the second with other seeds too, and score it: where the records lie, the modules that each has loaded."
    out = tmp_path_factory.mktemp("results")
    evaluate = lambda name, seeds: ["evaluate", hand, "--val", real / "test", "--seeds", seeds, *QUICK[2:], "--looks", 2, "--out", out / f"{name}.json"]
    first = afresh(evaluate("a", "0,1"))
    second = afresh(evaluate("b", "0,1"), evaluate("c", "1,2"), *([["score", hand, "--real", real / "test"]] if hasattr(dap.metrics, "extractor_of") else []))
    return out, first, second


def test_help_comes_without_torch():
    assert not {"torch", *DIFFUSION} & afresh(["--help"], ["evaluate", "--help"], ["score", "--help"])


def test_judging_loads_nothing_of_diffusion(judged):
    assert "dap.evaluate" in judged[1] and not DIFFUSION & judged[1] and not DIFFUSION & judged[2]


@scoring
def test_scoring_loads_nothing_of_diffusion(judged):
    assert "dap.metrics" in judged[2] and not DIFFUSION & judged[2]


def test_a_folder_judged_twice_gives_the_same_bytes(judged):
    assert (judged[0] / "a.json").read_bytes() == (judged[0] / "b.json").read_bytes()
    a, c = (json.loads((judged[0] / f"{k}.json").read_text()) for k in "ac")
    assert a["final"][1] == c["final"][0] and a["final"] != c["final"]                                          # a network is its seed's, whatever its neighbours


def test_a_hand_picked_folder_is_judged_and_the_record_says_by_what(hand, real, tmp_path):
    done = call("evaluate", hand, "--val", real / "test", *QUICK, "--out", tmp_path / "result.json")
    record = json.loads((tmp_path / "result.json").read_text())
    assert done.exit_code == 0 and record["images"] == folder_hash(hand) and record["test"] == folder_hash(real / "test")
    assert record["resolved"]["n_train"] == 100 and record["resolved"]["n_val"] == 240 and record["resolved"]["img_size"] == 28 and record["resolved"]["classes"] == list(FASHION)
    assert len(record["final"]) == 2 and all(abs(np.mean(classes) - final) < 1e-9 for classes, final in zip(record["per_class"], record["final"]))
    assert str(tmp_path) not in json.dumps(record) and str(hand) not in json.dumps(record)
    for said in (record["images"], "10 classes, 10 images a class, 28 x 28", "2 files are not read", "protocol minimax", "epochs 1", f"{np.mean(record['final']):.2f} ± {np.std(record['final'], ddof=1):.2f} %", *FASHION): assert said in done.stdout, said


@pytest.mark.skipif("ipc" not in inspect.signature(dap.evaluate.evaluate).parameters, reason="dap.evaluate takes no ipc yet")
def test_ipc_takes_the_first_images_by_name(real, tmp_path):
    for c in FASHION:
        (tmp_path / "three" / c).mkdir(parents=True)
        for k in range(3): shutil.copy(real / "train" / c / f"{k:05d}.png", tmp_path / "three" / c)
    for root, out, more in ((real / "train", "a", ("--ipc", 3)), (tmp_path / "three", "b", ())): assert call("evaluate", root, "--val", real / "test", *QUICK, *more, "--out", tmp_path / out).exit_code == 0
    a, b = (json.loads((tmp_path / k).read_text()) for k in "ab")
    assert a["resolved"]["n_train"] == 30 and a["final"] == b["final"] and a["per_class"] == b["per_class"]


def test_unequal_classes_and_classes_that_are_not_asked_for_are_told_not_refused(real, tmp_path):
    shutil.copytree(real / "val", tmp_path / "few"); shutil.rmtree(tmp_path / "few" / FASHION[9]); (tmp_path / "few" / FASHION[0] / "00000.png").unlink()
    done = call("evaluate", tmp_path / "few", "--val", real / "test", *QUICK, "--seeds", 3)
    assert done.exit_code == 0 and "9 classes, 23 to 24 (not equally many) images a class" in done.stdout and "1 more classes of" in done.stdout and "one seed has no spread" in done.stdout


# how a copy of the hand-picked folder is spoilt -> what the one line must hold: the value, and the remedy
photo = f"{FASHION[0]}/Größe 0 (copy).jpg"
wnids = [f"n{k:08d}" for k in range(10)]
BAD = {
    "no-folder": (lambda f: shutil.rmtree(f), ["no image folder", "one folder per class"]),
    "a-file": (lambda f: (shutil.rmtree(f), f.write_bytes(b"PK")), ["is a file", "unpack it"]),
    "no-classes": (lambda f: (shutil.rmtree(f), f.mkdir()), ["no class folders", "one folder per class"]),
    "loose-images": (lambda f: ([p.rename(f / f"{p.parent.name} {p.name}") for p in f.glob("*/*.j*")], [shutil.rmtree(p) for p in f.glob("*/")]), ["images", "one folder per class"]),
    "empty-class": (lambda f: (f / "x-gloves").mkdir(), ["x-gloves", "empty", "put images into it"]),
    "hidden-only": (lambda f: ((f / "x-gloves").mkdir(), (f / "x-gloves/.DS_Store").touch()), ["x-gloves", "empty"]),
    "no-images": (lambda f: ((f / "x-gloves").mkdir(), (f / "x-gloves/0.npy").touch()), ["x-gloves", "0.npy", "PNG or JPEG"]),
    "no-image": (lambda f: (f / photo).write_text("hello"), [photo, "cannot read", "remove it"]),
    "truncated": (lambda f: (f / photo).write_bytes((f / photo).read_bytes()[:300]), [photo, "cannot read", "remove it"]),
    "zero-bytes": (lambda f: (f / photo).write_bytes(b""), [photo, "cannot read", "remove it"]),
    "sixteen-bits": (lambda f: Image.fromarray(np.full((28, 28), 60000, np.uint16)).save(f / FASHION[0] / "deep.png"), ["deep.png", "I;16", "8-bit"]),
    "mixed-sizes": (lambda f: Image.new("RGB", (20, 24)).save(f / photo), ["(20, 24)", "224", "one size"]),
    "one-class": (lambda f: [shutil.rmtree(f / c) for c in FASHION[1:]], ["one class only", FASHION[0], "at least 2"]),
    "other-name": (lambda f: (f / FASHION[1]).rename(f / "trousers"), ["'trousers'", f"'{FASHION[1]}'", "NAME", "rename"]),
    "wnids": (lambda f: [(f / c).rename(f / w) for c, w in zip(FASHION, wnids)], [wnids[0], FASHION[0], "both have 10 classes", "NAME", "WordNet"]),
    "splits": (lambda f: (f.rename(f.parent / "inner"), f.mkdir(), (f.parent / "inner").rename(f / "train")), ["splits (train)", "my-set/train"]),
}


@named("command", ["evaluate", pytest.param("score", marks=scoring)])
@named("name", BAD)
def test_a_bad_folder_gives_one_line_before_anything_is_computed_and_changes_nothing(name, command, hand, real, tmp_path, monkeypatch):
    for module, work in ((dap.evaluate, "evaluate"), (dap.metrics, "score")): monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("computed in spite of a bad folder"))
    mine = tmp_path / "my-set"
    shutil.copytree(hand, mine); spoil, says = BAD[name]; spoil(mine)
    before = tree(tmp_path)
    size = ("--size", 224) if command == "score" else ()
    said = error(call(command, mine, "--val" if command == "evaluate" else "--real", real / "test", *size, "--out", tmp_path / "never.json"))
    assert all(s in said for s in says), said
    assert tree(tmp_path) == before


@named("args, says", [
    (["--ipc", 11], ["has 10 images", "11 were asked", "at most 10"]), (["--ipc", 0], ["= 0", "at least 1"]), (["--img-size", 0], ["0", "at least 1"]),
    (["--seeds", "a,b"], ["a,b", "0,1,2"]), (["--seeds", "1,1"], ["1,1", "once"]), (["--seeds", ""], ["whole numbers"]), (["--protocol", "nope"], ["nope", "minimax"]),
    (["--device", "toaster"], ["toaster", "cpu"]), (["--arch", "resnet_of_mine"], ["resnet_of_mine", "convnet3"]), (["--epochs-factor", 0], ["0", "> 0"]), (["--looks", 0], ["0", "at least 1"]),
    (["--dtype", "float8"], ["float8", "bfloat16"]), (["--val", "nowhere"], ["nowhere", "one folder per class"])], ids=str)
def test_an_option_that_cannot_be_gives_one_line(args, says, hand, real, tmp_path):
    before = tree(tmp_path)
    said = error(call("evaluate", hand, "--val", real / "test", *QUICK, *args, "--out", tmp_path / "never.json"))
    assert all(s in said for s in says), said
    assert tree(tmp_path) == before


def test_bad_test_images_are_named_too(hand, real, tmp_path):
    val = Path(shutil.copytree(real / "val", tmp_path / "val"))
    (val / FASHION[3] / "00001.png").write_bytes(b"torn")
    assert "00001.png" in error(call("evaluate", hand, "--val", val, *QUICK))
    shutil.rmtree(val / FASHION[3])
    assert all(s in error(call("evaluate", hand, "--val", val, *QUICK)) for s in (FASHION[3], "lacks", "add them"))
    assert "itself" in error(call("evaluate", real / "val", "--val", tmp_path / ".." / real / "val", *QUICK))


def test_without_val_the_default_is_taken_and_said_or_its_command_is(hand, real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "`dvc repro unpack`" in error(call("evaluate", hand, *QUICK))
    (tmp_path / "results/default").mkdir(parents=True); (tmp_path / "results/default/real").symlink_to(real)
    done = call("evaluate", hand, *QUICK)
    assert done.exit_code == 0 and "results/default/real/test (--val is not given" in done.stdout


def test_a_result_that_could_not_be_written_is_known_before(hand, real, tmp_path, monkeypatch):
    monkeypatch.setattr(dap.evaluate, "evaluate", lambda *_, **__: pytest.fail("trained for nothing"))
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file/result.json"): assert str(out) in error(call("evaluate", hand, "--val", real / "test", "--out", out))


@scoring
def test_a_folder_scored_twice_gives_the_same_bytes_and_copies_are_called_copies(hand, real, tmp_path):
    for out in "ab": done = call("score", hand, "--real", real / "test", "--train", real / "train", "--out", tmp_path / out)
    record = json.loads((tmp_path / "a").read_text())
    assert done.exit_code == 0 and (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() and record["images"] == folder_hash(hand)
    assert record["n"] == 100 and record["copies_pixels"] > 0.9 and "judge" in record["features"] and "the judge that ships" in done.stdout
    for path, label in RealImages(real / "val", per_class=10).samples: (tmp_path / "new" / FASHION[label]).mkdir(parents=True, exist_ok=True); shutil.copy(path, tmp_path / "new" / FASHION[label])
    assert call("score", tmp_path / "new", "--real", real / "test", "--train", real / "train", "--out", tmp_path / "c").exit_code == 0
    assert json.loads((tmp_path / "c").read_text())["copies_pixels"] < 0.2


@scoring
def test_where_the_judge_cannot_see_pixels_are_taken_and_said(hand, real):
    done = call("score", hand, "--real", real / "test", "--size", 16)
    assert done.exit_code == 0 and "pixels: no --extractor is given, and the judge that ships sees 28 pixels only" in done.stdout
    assert "never-trained" in error(call("score", hand, "--real", real / "test", "--extractor", "never-trained"))
