"""Scores of a folder equal those of the packages that defined them, on real images in the shipped judge's features."""
import contextlib, io, os, subprocess, sys
from pathlib import Path
from urllib.error import URLError
import numpy as np, pytest, torch
import dap.metrics
from dap.data import FASHION, RealImages, read_idx, save_images
from dap.energies import MMD
from dap.kernels import Cosine, InverseMultiquadric, Laplacian, Linear, Polynomial, RBF, median_length_scale
from dap.metrics import WEIGHTS, Inception, Judge, copying, density_coverage, draw_neighbours, embed, extractor_of, frechet, kid, mmd, neighbours, pixels, precision_recall, score, vendi

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "assets"
named = pytest.mark.parametrize


@pytest.fixture(scope="module")
def images():
    "Return real training images by class, (10, 80, 3, 28, 28) uint8."
    x, y = (torch.from_numpy(read_idx(ASSETS / f"fashion-mnist/train-{w}-ubyte.gz").copy()) for w in ("images-idx3", "labels-idx1"))
    return torch.stack([x[y == c][:80] for c in range(10)])[:, :, None].repeat(1, 1, 3, 1, 1)


@pytest.fixture(scope="module")
def sets(images):
    "Return the judge's features of 300 blurred and 500 other real images, float64: the packages differ in the precision they compute in."
    blurred = torch.nn.functional.avg_pool2d(images[:, :30].flatten(0, 1).float(), 3, 1, 1).to(torch.uint8)
    judge = Judge(ASSETS / "judge", "cpu")
    return embed(blurred, judge).double(), embed(images[:, 30:].flatten(0, 1), judge).double()


@pytest.fixture(scope="module")
def folders(images, tmp_path_factory):
    "Write three classes as folders: made (the last of its four images a class copies train's second), train, held."
    root = tmp_path_factory.mktemp("folders")
    for c in (0, 1, 8):
        parts = dict(train=images[c, :30], held=images[c, 30:60], made=torch.cat([images[c, 60:63], images[c, 1:2]]))
        for name, x in parts.items(): save_images(root / name / FASHION[c], x)
    return root


@named("k", [1, 3, 5])
def test_precision_recall_density_coverage_are_those_of_prdc(sets, k):
    prdc = pytest.importorskip("prdc")
    with contextlib.redirect_stdout(io.StringIO()): theirs = prdc.compute_prdc(sets[1].numpy(), sets[0].numpy(), k)
    ours = precision_recall(*sets, k) + density_coverage(*sets, k)
    assert np.allclose(ours, [theirs[v] for v in ("precision", "recall", "density", "coverage")], atol=1e-4) and 0 < min(ours) < 1


@named("k", [3, 5])
def test_precision_and_recall_are_those_of_torch_fidelity(sets, k):
    theirs = pytest.importorskip("torch_fidelity.metric_prc").calculate_precision_recall_full(*sets, k)
    assert np.allclose(precision_recall(*sets, k), theirs, atol=1e-4)


def test_frechet_is_the_fid_of_torch_fidelity(sets):
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    theirs = fid.fid_statistics_to_metric(*(fid.fid_features_to_statistics(z) for z in sets), verbose=False)["frechet_inception_distance"]
    assert abs(frechet(*sets) - theirs) < 1e-4 and theirs > 1
    few = [z[:, :100] for z in sets]                                      # more samples than features
    assert abs(frechet(*few) - fid.fid_statistics_to_metric(*(fid.fid_features_to_statistics(z) for z in few), verbose=False)["frechet_inception_distance"]) < 1e-4
    assert abs(frechet(*(z.float() for z in sets)) - theirs) < 1e-3      # as `score` calls it, in the features' float32


@named("subsets, size", [(1, 300), (20, 100), (4, 300)])
def test_kid_is_that_of_torch_fidelity_subset_by_subset(sets, subsets, size):
    metric = pytest.importorskip("torch_fidelity.metric_kid").kid_features_to_metric
    theirs = metric(*sets, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    assert np.allclose(kid(*sets, subsets, size), [theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]], rtol=1e-4, atol=1e-9)
    assert kid(*sets, subsets, size)[0] > 1e-4


@named("unbiased", [False, True])
def test_mmd_is_that_of_torch_fidelity(sets, unbiased):
    theirs, n = pytest.importorskip("torch_fidelity.metric_kid"), 300
    for kernel, gram in {Polynomial(3, 1.0): lambda a, b: (a @ b.T + 1) ** 3, RBF(20.0): lambda a, b: theirs.kernel_rbf(a, b, kid_kernel_rbf_sigma=20.0)}.items():
        a, b = (z[:n].numpy() / 10 for z in sets)
        want = theirs.mmd2(gram(a, a), gram(a, b), gram(b, b), mmd_est="unbiased" if unbiased else "biased")
        assert np.isclose(mmd(sets[0] / 10, sets[1][:n] / 10, kernel, unbiased), want, rtol=1e-4) and want > 0


@named("kernel", [RBF(), Laplacian(), InverseMultiquadric(), Linear(), Polynomial(2), Cosine(), Linear() + RBF(), 0.5 * Cosine()], ids=repr)
def test_mmd_takes_every_kernel_and_is_the_energy(sets, kernel):
    assert mmd(*sets, kernel) == MMD(kernel)(*sets).item() > 0 and abs(mmd(sets[0], sets[0], kernel)) < 1e-6 * max(1, kernel.resolve(sets[0]).diag(sets[0]).mean())


def test_vendi_is_that_of_its_package(sets):
    theirs = pytest.importorskip("vendi_score.vendi")
    for z in sets: assert abs(vendi(z) - theirs.score_X(z.numpy())) < 1e-4 < vendi(z) - 1
    for kernel in (RBF(30.0), Polynomial(2)): assert abs(vendi(sets[0], kernel) - theirs.score_K(kernel(sets[0]).numpy(), normalize=True)) < 1e-4


@named("kernel", [Cosine(), Linear()], ids=repr)
def test_vendi_of_few_features_takes_the_small_matrix_and_is_the_same(sets, kernel, monkeypatch):
    z, theirs = sets[1][:, :40], pytest.importorskip("vendi_score.vendi")
    u, solve, seen = z / z.norm(dim=1, keepdim=True), torch.linalg.eigvalsh, []
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda k: seen.append(tuple(k.shape)) or solve(k))
    assert abs(vendi(z, kernel) - theirs.score_K((u @ u.T).numpy())) < 1e-6 and seen == [(40, 40)]
    assert abs(vendi(sets[1][:30], kernel) - theirs.score_X(sets[1][:30].numpy())) < 1e-6 and seen[1] == (30, 30)


@named("unbiased", [False, True])
@named("kernel", [RBF(), Laplacian(), Linear(), Polynomial(2), Cosine(), 0.5 * Laplacian() + RBF()], ids=repr)
def test_mmd_of_large_sets_is_taken_in_blocks_and_is_the_same(sets, kernel, unbiased, monkeypatch):
    want, scale, biggest = mmd(*sets, kernel, unbiased), kernel.resolve(sets[1]).diag(sets[1]).mean().item(), []
    monkeypatch.setattr(dap.metrics, "PAIRS", 70 * 500)
    for k in (RBF, Laplacian, Linear, Polynomial, Cosine): monkeypatch.setattr(k, "gram", lambda self, x, y, whole=k.gram: biggest.append(len(x)) or whole(self, x, y))
    assert abs(mmd(*sets, kernel, unbiased) - want) < 1e-6 * max(1, scale) and 0 < max(biggest) <= 116          # 116 rows over 300, 70 over 500


@named("metric", ["euclidean", "cityblock"])
@named("n", [2, 3, 50, 301])
def test_the_median_in_blocks_is_the_median(sets, metric, n, monkeypatch):
    monkeypatch.setattr(dap.metrics, "PAIRS", 2000)
    assert dap.metrics.median_in_blocks(sets[1][:n], metric, bins=97) == pytest.approx(median_length_scale(sets[1][:n], metric=metric), rel=1e-9)
    with pytest.raises(ValueError, match="at least two different points"): dap.metrics.median_in_blocks(sets[1][:1].repeat(5, 1), metric)


def test_vendi_by_class_is_the_mean_over_classes(sets):
    y = torch.arange(10).repeat_interleave(30)
    assert abs(vendi(sets[0], labels=y) - np.mean([vendi(z) for z in sets[0].split(30)])) < 1e-9


def test_scoring_loads_nothing_of_diffusion_together():
    code = "import sys, dap.evaluate, dap.metrics; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split())
    assert {"dap.metrics", "dap.kernels", "dap.energies"} <= loaded and not {"diffusers", "transformers", "torch_fidelity", "matplotlib"} & loaded


def test_a_judge_is_named_by_folder_and_says_which_it_is(folders):
    found = score(folders / "made", folders / "held", extractor=str(ASSETS / "judge"), k=3)
    assert found["features"].startswith("judge convnet3, 28 px, weights ") and found["n"] == 12
    assert found == pytest.approx(score(folders / "made", folders / "held", extractor=Judge(ASSETS / "judge", "cpu"), k=3))      # judged twice: the same


def test_score_finds_the_copies_in_features_and_in_pixels(folders):
    found = score(folders / "made", folders / "held", extractor=ASSETS / "judge", train=folders / "train", k=3)
    table = neighbours(folders / "made", folders / "train", folders / "held", extractor=ASSETS / "judge")
    for space, end in {"features": "", "pixels": "_pixels"}.items():
        below = table[f"distance_{space}"] < table[f"limit_{space}"]
        assert below.mean() == pytest.approx(found[f"copies{end}"]) and below[table.file.str.endswith("00003.png")].all()
    copies = table[table.file.str.endswith("00003.png")]
    assert (copies.distance_pixels == 0).all() and copies.nearest_pixels.str.endswith("00001.png").all() and copies.flagged.all() and len(table) == 12


def test_training_images_of_a_folder_are_read_in_blocks_and_score_as_tensors_do(folders, monkeypatch):
    made, held = folders / "made", folders / "held"
    pair = RealImages(folders / "train").tensors()
    want = score(made, held, extractor="pixels", train=pair, k=3)
    whole = RealImages.tensors
    monkeypatch.setattr(RealImages, "tensors", lambda self: pytest.fail("all training images were read at once") if self.root_path.name == "train" else whole(self))
    assert score(made, held, extractor="pixels", train=folders / "train", k=3) == want
    assert len(neighbours(made, folders / "train", held, extractor="pixels", n_held=None)) == 12


def test_nearest_images_in_blocks_are_those_of_the_whole_set(images):
    from dap.metrics import nearest, nearest_images
    x, z = images[:, 60:].flatten(0, 1), images[:, :30].flatten(0, 1)
    want = nearest(pixels(x), pixels(z))
    for batch in (7, 1000):
        (d, j), = nearest_images([x], z, pixels, batch)
        assert torch.equal(j, want[1]) and torch.equal(d, want[0])
    assert copying(pixels(x), pixels(z), pixels(x))["nearest_ratio"] == 1


def test_held_out_images_that_are_training_images_are_refused_where_copies_are_asked_for(folders):
    with pytest.raises(ValueError, match="90 of 90 held-out images are training images themselves"): score(folders / "made", folders / "train", extractor="pixels", train=folders / "train")
    with pytest.raises(ValueError, match="not among the training images"): neighbours(folders / "made", folders / "train", folders / "train", extractor="pixels")


def test_a_black_image_has_no_vendi_score_and_every_other(folders, images):
    x, y = RealImages(folders / "made").tensors()
    black = x.clone(); black[5] = 0
    held = RealImages(folders / "held").tensors()
    got, whole = score((black, y), held, extractor="pixels"), score((x, y), held, extractor="pixels")
    assert {k for k, v in got.items() if v != v} == {"vendi", "vendi_class"} and not any(v != v for v in whole.values())


def test_real_classes_of_one_repeated_image_are_refused(folders):
    (x, y), (h, yr) = (RealImages(folders / f).tensors() for f in ("made", "held"))
    with pytest.raises(ValueError, match="of the real images is 0: the images of each class are equal"): score((x, y), (h[30 * yr], yr), extractor="pixels", clusters=1)


def test_neighbours_are_drawn_with_a_row_for_each_space(folders):
    import matplotlib
    matplotlib.use("Agg")
    table = neighbours(folders / "made", folders / "train", folders / "held", extractor="pixels")
    fig = draw_neighbours(table.nsmallest(5, "distance_pixels"))
    shown = [a.images[0].get_array() for a in fig.axes]
    assert len(shown) == 15 and (np.asarray(shown[0]) == np.asarray(shown[5])).all() and fig.axes[5].get_title() == "0.00" and fig.axes[5].title.get_color() == "red"
    with pytest.raises(ValueError, match="no rows"): draw_neighbours(table[:0])


def test_folders_of_another_size_are_brought_to_one(folders, tmp_path, images):
    for c in (0, 1, 8): save_images(tmp_path / FASHION[c], images[c, :4, :, :14, :14])
    with pytest.raises(ValueError, match="give `size`"): score(tmp_path, folders / "held", extractor="pixels", k=3)
    with pytest.raises(ValueError, match="give `size`"): neighbours(tmp_path, folders / "train", folders / "held", extractor="pixels")
    assert score(tmp_path, folders / "held", extractor="pixels", k=3, size=14)["n"] == 12


@pytest.fixture
def never():
    "Return an extractor that must not be asked."
    def extractor(images): raise AssertionError("features were taken before the input was checked")
    return extractor


@named("few", [dict(synthetic="train"), dict(real="made"), dict(clusters=28)])
def test_where_real_images_are_few_what_compares_with_random_ones_is_left_out(folders, few):
    given = dict(extractor="pixels", clusters=few.get("clusters"))
    got = score(folders / few.get("synthetic", "made"), folders / few.get("real", "held"), **given)
    whole = score(folders / "made", folders / "held", extractor="pixels")
    assert set(whole) - set(got) == {"vendi_random", "representativeness", "clusters", "clusters_random"} and set(got) - set(whole) == {"left_out"}
    assert "class '0-t-shirt-top' has" in got["left_out"] and all(v == v for v in got.values())


@named("wrong, message", [
    (dict(synthetic="nowhere"), "no image folder nowhere"),
    (dict(synthetic=lambda f: f), "no class 'held'"),
    (dict(k=0), "k = 0 with 12"), (dict(k=12), "k from 1 to 11"),
    (dict(clusters=0), "clusters = 0"), (dict(clusters=40), "clusters = 40: class '0-t-shirt-top' has 30 real images"),
    (dict(kernel="rbf"), "kernel = 'rbf'"), (dict(extractor="resnet"), "extractor = 'resnet'"),
    (dict(real=(torch.zeros(30, 3, 28, 28), torch.zeros(30))), "images of torch.float32"),
    (dict(real=(torch.zeros(30, 3, 28, 28, dtype=torch.uint8), torch.zeros(29))), "30 images and 29 labels"),
    (dict(real=(torch.zeros(30, 3, 28, 28, dtype=torch.uint8), torch.zeros(30))), "give the same classes"),
    (dict(train=(torch.zeros(3, 3, 14, 14, dtype=torch.uint8), torch.arange(3))), "cannot be compared"),
], ids=lambda v: v.split()[0] if isinstance(v, str) else "")
def test_bad_input_gets_one_message_before_features_are_taken(folders, never, wrong, message):
    given = dict(synthetic=folders / "made", real=folders / "held", extractor=never, k=3) | {k: v(folders) if callable(v) else v for k, v in wrong.items()}
    with pytest.raises(ValueError, match=message): score(given.pop("synthetic"), given.pop("real"), **given)


def test_a_broken_image_is_named(folders, never, tmp_path):
    for c in (0, 1, 8): save_images(tmp_path / FASHION[c], torch.zeros(4, 3, 28, 28, dtype=torch.uint8))
    (tmp_path / FASHION[8] / "00002.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot read image .*00002.png"): score(tmp_path, folders / "held", extractor=never, k=3)
    with pytest.raises(ValueError, match="cannot read image .*00002.png"): score(folders / "made", folders / "held", extractor=never, train=tmp_path, k=3)


def test_inception_without_its_weights_says_what_to_do(monkeypatch, tmp_path):
    pytest.importorskip("torch_fidelity")
    def offline(*a, **k): raise URLError("no network")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path)); monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match=f"cannot be fetched.*copy {WEIGHTS}.*assets/judge"): extractor_of("inception")
    (tmp_path / "checkpoints" / WEIGHTS).write_bytes(b"anything")
    with pytest.raises(ValueError, match="is damaged.*6726825d"): extractor_of("inception")


def test_inception_without_the_package_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match="pip install torch-fidelity"): extractor_of("inception")


def test_inception_gives_the_features_of_torch_fidelity(monkeypatch, tmp_path, images):
    net = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(net, "load_state_dict_from_url", lambda *a, **k: {})      # random weights: the published ones cannot be had everywhere
    with torch.random.fork_rng(), monkeypatch.context() as m:
        torch.manual_seed(0); m.setattr(net.FeatureExtractorInceptionV3, "load_state_dict", lambda *a: None)
        theirs = net.FeatureExtractorInceptionV3("x", ["2048"])
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    x = images[0, :3]
    ours = embed(x, Inception(tmp_path / "weights.pth", "cpu"))
    with torch.no_grad(): want = theirs(x)[0]
    assert ours.shape == (3, 2048) and torch.allclose(ours, want, atol=1e-5) and not torch.equal(ours[0], ours[1])
