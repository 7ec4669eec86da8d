"""The judge's two commands on folders that nothing here made: the same folder twice, a hand-picked one, bad ones."""
import hashlib, json, os, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from typer.testing import CliRunner
import dap.evaluate, dap.metrics
from dap.cli import app
from dap.data import FASHION, RealImages, folder_hash, unpack
from dap.evaluate import compiles, train_real

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--seeds", "0,1", "--epochs-factor", "0.0005")
DIFFUSION = {"diffusers", "transformers", *(f"dap.{m}" for m in ("backbones", "bank", "sampling", "guidance", "distill", "prior", "pipeline"))}
named = pytest.mark.parametrize


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
    second = afresh(evaluate("b", "0,1"), evaluate("c", "1,2"), ["score", hand, "--real", real / "test"])
    return out, first, second


def test_help_comes_without_torch():
    assert not {"torch", *DIFFUSION} & afresh(["--help"], ["evaluate", "--help"], ["score", "--help"])


def test_judging_loads_nothing_of_diffusion(judged):
    assert "dap.evaluate" in judged[1] and not DIFFUSION & judged[1] and not DIFFUSION & judged[2]


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


@named("command", ["evaluate", "score"])
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


@pytest.fixture(scope="module")
def teacher(real, tmp_path_factory):
    "Train a network on the few real images for one epoch."
    return train_real(real / "train", tmp_path_factory.mktemp("teacher") / "net", "convnet3", epochs_factor=0.1, img_size=28, device="cpu")


@named("protocol", ["rded", "fkd"])
def test_a_folder_judged_twice_by_a_teacher_gives_the_same_bytes(protocol, hand, real, teacher, tmp_path):
    stored = ("--soft-labels", tmp_path / "answers") if protocol == "fkd" else ()
    for out in "ab": done = call("evaluate", hand, "--val", real / "test", *QUICK, "--epochs-factor", 0.007, "--protocol", protocol, "--teacher", teacher, *stored, "--out", tmp_path / out)
    record = json.loads((tmp_path / "a").read_text())
    assert done.exit_code == 0 and (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() and record["resolved"]["epochs"] == 2
    assert record["resolved"]["teacher"] == hashlib.sha256((teacher / "model.safetensors").read_bytes()).hexdigest()[:16] and str(tmp_path) not in json.dumps(record)
    if stored: assert len(list((tmp_path / "answers").glob("epoch-*.safetensors"))) == 2


@named("args, says", [
    (["--protocol", "rded"], ["rded", "--teacher", "train_real"]), (["--protocol", "fkd"], ["fkd", "--teacher", "train_real"]),
    (["--teacher"], ["minimax takes hard labels", "leave it out"]), (["--protocol", "igd", "--teacher"], ["igd takes hard labels", "leave it out"]),
    (["--soft-labels", "answers"], ["soft_labels = answers", "only fkd"])], ids=str)
def test_a_teacher_where_none_is_asked_for_or_none_where_one_is_gives_one_line(args, says, hand, real, teacher, tmp_path, monkeypatch):
    for work in ("load_both", "train_network"): monkeypatch.setattr(dap.evaluate, work, lambda *_, **__: pytest.fail("read or trained in spite of it"))
    given = [*args, teacher] if args[-1] == "--teacher" else args
    said = error(call("evaluate", hand, "--val", real / "test", *QUICK, *given, "--out", tmp_path / "never.json"))
    assert all(s in said for s in says) and not list(tmp_path.iterdir()), said


def test_seeds_trained_side_by_side_give_the_same_bytes(hand, real, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try: codes = [call("evaluate", hand, "--val", real / "test", *QUICK, "--workers", n, "--out", tmp_path / str(n)).exit_code for n in (1, 2)]
    finally: torch.set_num_threads(before)
    assert codes == [0, 0] and (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_folder_is_judged_through_the_compiler(hand, real, tmp_path):
    if not compiles(): pytest.skip("torch.compile does not work here: no compiler, or no headers")
    assert call("evaluate", hand, "--val", real / "test", "--seeds", 0, *QUICK[2:], "--compile", "--out", tmp_path / "a").exit_code == 0
    record = json.loads((tmp_path / "a").read_text())
    assert record["resolved"]["compile"] is True and 0 <= record["final"][0] <= 100


@named("size, arch", [(28, "convnet3"), (63, "convnet3"), (64, "convnet4"), (127, "convnet4"), (128, "convnet5"), (223, "convnet5"), (224, "convnet6"), (512, "convnet6")])
def test_the_network_is_chosen_by_size_and_said(size, arch, hand, real, monkeypatch):
    asked = []
    monkeypatch.setattr(dap.evaluate, "evaluate", lambda folder, val, name, *_, **__: asked.append(name) or (_ for _ in ()).throw(ValueError("enough")))
    done = [call("evaluate", hand, "--val", real / "test", "--img-size", size, *args) for args in ((), ("--arch", "resnet18_in"))]
    assert asked == [arch, "resnet18_in"] and f"arch       {arch}: --arch is not given" in done[0].stdout and "arch       resnet18_in: as asked" in done[1].stdout


def test_a_result_that_could_not_be_written_is_known_before(hand, real, tmp_path, monkeypatch):
    monkeypatch.setattr(dap.evaluate, "evaluate", lambda *_, **__: pytest.fail("trained for nothing"))
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file/result.json"): assert str(out) in error(call("evaluate", hand, "--val", real / "test", "--out", out))


def test_a_folder_scored_twice_gives_the_same_bytes_and_copies_are_called_copies(hand, real, tmp_path):
    for out in "ab": done = call("score", hand, "--real", real / "test", "--train", real / "train", "--out", tmp_path / out)
    record = json.loads((tmp_path / "a").read_text())
    assert done.exit_code == 0 and (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() and record["images"] == folder_hash(hand)
    assert record["n"] == 100 and record["copies_pixels"] > 0.9 and "judge" in record["features"] and "the judge that ships" in done.stdout
    for path, label in RealImages(real / "val", per_class=10).samples: (tmp_path / "new" / FASHION[label]).mkdir(parents=True, exist_ok=True); shutil.copy(path, tmp_path / "new" / FASHION[label])
    assert call("score", tmp_path / "new", "--real", real / "test", "--train", real / "train", "--out", tmp_path / "c").exit_code == 0
    assert json.loads((tmp_path / "c").read_text())["copies_pixels"] < 0.2


def test_where_the_judge_cannot_see_inception_is_taken_or_pixels_and_said(hand, real, monkeypatch):
    score = lambda *args: call("score", hand, "--real", real / "test", *args)
    def refuse(*_, **__): raise ValueError("its weights cannot be fetched")
    monkeypatch.setattr(dap.metrics, "Inception", refuse)
    done = score("--size", 16)
    assert done.exit_code == 0 and "features   pixels: no --extractor is given, and the judge that ships sees 28 pixels only; Inception cannot be had: its weights cannot be fetched" in done.stdout
    class Stand:
        name = "inception 2048, torch-fidelity"
        def __call__(self, images): return dap.metrics.grey(images)
    monkeypatch.setattr(dap.metrics, "Inception", Stand)
    done = score("--size", 16)
    assert done.exit_code == 0 and "features   inception 2048, torch-fidelity: no --extractor is given, and the judge that ships sees 28 pixels only\n" in done.stdout
    assert "features   pixels: as asked" in score("--size", 16, "--extractor", "pixels").stdout and "the judge that ships" in score().stdout
    assert "never-trained" in error(score("--extractor", "never-trained"))


def test_copies_are_named_and_drawn(real, tmp_path):
    new = tmp_path / "new"
    for path, label in RealImages(real / "val", per_class=4).samples: (new / FASHION[label]).mkdir(parents=True, exist_ok=True); shutil.copy(path, new / FASHION[label])
    shutil.copy(real / "train" / FASHION[8] / "00003.png", new / FASHION[8] / "copy.png")
    for out in "ab": done = call("score", new, "--real", real / "test", "--train", real / "train", "--pictures", tmp_path / f"{out}.png", "--out", tmp_path / out)
    lines, record = done.stdout.splitlines(), json.loads((tmp_path / "a").read_text())
    at = next(i for i, line in enumerate(lines) if line.startswith("flagged "))
    named = [line.split(":")[0].strip() for line in lines[at + 1:] if line.startswith("           ")]
    assert done.exit_code == 0 and f"{FASHION[8]}/copy.png" in named and f" {len(named)} of 41 images" in lines[at]
    assert any(f"{FASHION[8]}/copy.png: 0.00 of the limit in pixels ({FASHION[8]}/00003.png)" in line for line in lines)
    assert max(record["copies"], record["copies_pixels"]) * 41 - 0.5 < len(named) < (record["copies"] + record["copies_pixels"]) * 41 + 0.5
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes() and min(Image.open(tmp_path / "a.png").size) > 300


@named("args, says", [
    (["--pictures", "copies.png"], ["copies.png", "--train"]), (["--train", "TRAIN", "--pictures", "copies.jpg"], ["copies.jpg", "PNG"]),
    (["--train", "TRAIN", "--pictures", "/dev/null/copies.png"], ["--pictures", "copies.png"]), (["--train", "nowhere", "--pictures", "copies.png"], ["nowhere"])], ids=str)
def test_pictures_that_cannot_be_drawn_give_one_line_before_anything_is_computed(args, says, hand, real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); monkeypatch.setattr(dap.metrics, "score", lambda *_, **__: pytest.fail("computed in spite of it"))
    said = error(call("score", hand, "--real", real / "test", *[real / "train" if a == "TRAIN" else a for a in args]))
    assert all(s in said for s in says) and not list(tmp_path.iterdir()), said


@named("args, says", [
    (["--workers", 0], ["--workers 0", "at least 1"]), (["--looks", 0], ["--looks 0", "at least 1"]),
    (["--protocol", "fkd", "--teacher", ROOT / "assets/teacher", "--soft-labels", "FILE"], ["--soft-labels", "is a file"])], ids=str)
def test_what_is_known_to_fail_is_refused_before_the_preset_is_said(args, says, hand, real, tmp_path):
    (tmp_path / "file").touch()
    done = call("evaluate", hand, "--val", real / "test", *[tmp_path / "file" if a == "FILE" else a for a in args])
    assert all(s in error(done) for s in says) and not done.stdout


def test_classes_that_do_not_match_the_default_are_told_that_it_is_one(real, tmp_path, monkeypatch):
    (tmp_path / "results/default/real").mkdir(parents=True); (tmp_path / "results/default/real/test").symlink_to(real / "test")
    monkeypatch.chdir(tmp_path)
    mine = one_each(real, tmp_path / "mine", lambda c: f"n0{c[0]}")
    for command, option in (("evaluate", "--val"), ("score", "--real")): assert f"({option} is not given: the test images of the default" in error(call(command, mine))
    shutil.rmtree(mine); one_each(real, mine); (mine / FASHION[3] / "00000.png").unlink()
    said = error(call("evaluate", mine))
    assert "is empty" in said and "--val" not in said


def test_where_real_images_are_few_the_rest_is_scored_and_it_says_so(real, tmp_path):
    done = call("score", real / "val", "--real", real / "test", "--out", tmp_path / "scores.json")
    kept = json.loads((tmp_path / "scores.json").read_text())
    assert done.exit_code == 0 and f"class '{FASHION[0]}' has 24 real images beside 24" in kept["left_out"] and kept["left_out"] in done.stdout and "representativeness" not in kept and kept["coverage"] > 0


def one_each(real, out, name=lambda c: c):
    "Copy the first validation image of each class."
    for path, label in RealImages(real / "val", per_class=1).samples:
        (out / name(FASHION[label])).mkdir(parents=True); shutil.copy(path, out / name(FASHION[label]))
    return out


def test_one_image_a_class_has_no_diversity_and_its_json_no_nan(real, tmp_path):
    done = call("score", one_each(real, tmp_path / "few"), "--real", real / "test", "--out", tmp_path / "scores.json")
    kept = json.loads((tmp_path / "scores.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    assert done.exit_code == 0 and kept["diversity"] is None and kept["n"] == 10 and kept["k"] == 5


def test_the_shipped_judge_comes_first_only_where_it_knows_the_classes(real, tmp_path, monkeypatch):
    def none(): raise ValueError("no weights")
    monkeypatch.setattr(dap.metrics, "Inception", none)
    shutil.copytree(real / "test", tmp_path / "real"); [f.rename(f.with_name(f"my-{f.name}")) for f in list((tmp_path / "real").iterdir())]
    known, foreign = (call("score", s, "--real", r) for s, r in ((one_each(real, tmp_path / "a"), real / "test"), (one_each(real, tmp_path / "b", "my-{}".format), tmp_path / "real")))
    large = call("score", tmp_path / "b", "--real", tmp_path / "real", "--size", 80)
    assert "trained on these classes" in known.stdout and "not on these classes; Inception cannot be had: no weights" in foreign.stdout and "features   thumbnails" in large.stdout
    monkeypatch.setattr(dap.metrics, "Inception", lambda: dap.metrics.pixels)
    assert "features   pixels: no --extractor is given" in call("score", tmp_path / "b", "--real", tmp_path / "real").stdout      # what stands for Inception here


def test_real_images_of_many_sizes_ask_for_one_before_anything_is_read(real, tmp_path, monkeypatch):
    shutil.copytree(real / "test", tmp_path / "real")
    odd = tmp_path / "real" / FASHION[4] / "00001.png"
    Image.open(odd).resize((30, 20)).save(odd)
    monkeypatch.setattr(dap.metrics, "score", lambda *_, **__: pytest.fail("computed in spite of it"))
    said = error(call("score", one_each(real, tmp_path / "few"), "--real", tmp_path / "real"))
    assert "28 x 28" in said and "30 x 20" in said and str(odd) in said and "--size" in said


@named("damage, says", [("kind", "holds no network but 'bank'"), ("weights", "model.safetensors cannot be read"), ("torn", "model.safetensors cannot be read"), ("record", "no manifest.json that can be read")])
def test_a_folder_that_holds_no_whole_network_gives_one_line(damage, says, hand, real, tmp_path):
    net = tmp_path / "net"
    shutil.copytree(ROOT / "assets/judge", net)
    if damage == "kind": (net / "manifest.json").write_text('{"kind": "bank"}')
    if damage == "weights": (net / "model.safetensors").unlink()
    if damage == "torn": (net / "model.safetensors").write_bytes((net / "model.safetensors").read_bytes()[:1000])
    if damage == "record": (net / "manifest.json").write_text("{")
    assert all(s in error(call("score", hand, "--real", real / "test", "--extractor", net)) for s in ("--extractor", str(net), says, "train_real"))
    assert all(s in error(call("evaluate", hand, "--val", real / "test", "--protocol", "rded", "--teacher", net)) for s in ("--teacher", str(net), says, "train_real"))


def test_soft_labels_without_a_teacher_name_the_option_and_the_one_that_ships(hand, real):
    assert all(s in error(call("evaluate", hand, "--val", real / "test", "--protocol", "fkd")) for s in ("fkd", "--teacher", "assets/teacher"))


@named("wrong, says", [(("--epochs-factor", "inf"), "epochs_factor = inf"), (("--epochs-factor", "nan"), "epochs_factor = nan"), (("--arch", "convnet99"), "convnet99")])
def test_what_cannot_be_trained_is_refused_before_a_preset_is_said(wrong, says, hand, real):
    done = call("evaluate", hand, "--val", real / "test", *wrong)
    assert says in error(done) and "preset" not in done.stdout


def test_the_preset_is_said_before_the_first_step(hand, real, monkeypatch):
    def stop(*_, **__): raise ValueError("stopped")
    monkeypatch.setattr(dap.evaluate, "evaluate", stop)
    done = call("evaluate", hand, "--val", real / "test", "--protocol", "igd")
    assert error(done) == "error: stopped" and "optimizer adamw" in done.stdout and "epochs 2000" in done.stdout and "3 networks, 4,000 steps of at most 64 images each (the whole protocol" in done.stdout


def test_boxes_are_cut_out_of_square_images_only():
    from dap.evaluate import load
    pair = torch.zeros(2, 3, 28, 20, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"\(28, 20\).*square"): load(pair, 28, as_stored=True)


@pytest.mark.parametrize("kept", ["judge", "teacher"])
def test_a_shipped_network_loads_and_names_real_test_images(kept):
    import torch
    from dap.data import read_idx
    from dap.evaluate import correct, load_network, percent
    source = Path(__file__).resolve().parents[1] / "assets"
    images, labels = (torch.from_numpy(read_idx(source / f"fashion-mnist/t10k-{k}-ubyte.gz").copy())[:500] for k in ("images-idx3", "labels-idx1"))
    net, record = load_network(source / kept, "cpu")
    assert percent(correct(net, images[:, None].repeat(1, 3, 1, 1), labels.long(), record["resolved"])) > 88
