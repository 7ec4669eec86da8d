"""What holds of the baselines DM and IGD beyond what their notebook shows."""
import json, pickle, shutil
from dataclasses import replace
from pathlib import Path
import pytest, torch
import torch.nn.functional as F
from dap.backbones import load_backbone
from dap.baselines import KINDS, InfluenceGuidance, Surrogate, alike, class_gradients, denoiser, influence_of, learned_once, load_surrogates, match_distributions, matching_loss, real_coreset, sample_in_turn
from dap.data import RealImages, folder_hash, save_images, unpack
from dap.evaluate import build, train_real
from dap.sampling import Step

ROOT = Path(__file__).resolve().parents[1]
SANDALS_BAGS = ["5-sandal", "8-bag"]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    "Return 16 real sandals and 16 real bags."
    return RealImages(unpack(ROOT / "assets/fashion-mnist", tmp_path_factory.mktemp("fashion"), limit=16) / "train", SANDALS_BAGS)


@pytest.fixture(scope="module")
def nets(real, tmp_path_factory):
    "Return two kept epochs of one training, and their folder."
    folder = tmp_path_factory.mktemp("surrogates")
    train_real(real.tensors(), folder, "convnet3", epochs_factor=0.3, img_size=28, device="cpu", keep=(1, 3))
    return load_surrogates(folder, "cpu"), folder


def a_step(x, labels, t=500, alpha_bar=0.3):
    "Return a step that knows nothing but its latents."
    return Step(x, t, 4, 10, torch.as_tensor(labels), torch.zeros(len(x), dtype=torch.long), torch.ones_like(x), x.clone(), x.clone(), None, alpha_bar, 0.1)


def guide_of(nets, targets, **knobs):
    "Return a guide on images themselves: no decoder."
    return InfluenceGuidance(nets, {label: (c, g) for label, (c, g) in zip((5, 8), targets.items())}, decode=lambda z: z, **knobs)


@pytest.mark.parametrize("kind", KINDS)
def test_an_augmentation_is_the_same_for_every_image_of_both_batches(kind):
    x = torch.rand(5, 3, 17, 17)
    assert torch.equal(alike(x, kind, 0.3, 0.9, 0.1)[2:4], alike(x[2:4], kind, 0.3, 0.9, 0.1))


def test_the_matching_loss_is_zero_only_for_equal_means():
    x, embed, g = torch.randn(6, 1, 28, 28), lambda v: v.flatten(1), torch.Generator().manual_seed(0)
    assert matching_loss(embed, x, x[torch.randperm(6)], True, g) < 1e-6 < 1e-2 < matching_loss(embed, x, x + 0.1, False, g)


def test_dm_is_the_same_whatever_the_global_generator_and_leaves_it_alone(real, tmp_path):
    hashes = []
    for seed in (1, 2):
        torch.manual_seed(seed); before = torch.get_rng_state()
        hashes.append(folder_hash(match_distributions(real, 1, tmp_path / str(seed), steps=2, batch=4, device="cpu", progress=False)))
        assert torch.equal(before, torch.get_rng_state())
    other = folder_hash(match_distributions(real, 1, tmp_path / "other", seed=1, steps=2, batch=4, device="cpu", progress=False))
    assert hashes[0] == hashes[1] != other


def test_dm_refuses_a_folder_made_from_other_real_images_or_tampered_with(real, tmp_path):
    make = lambda of: match_distributions(of, 1, tmp_path / "dm", steps=1, batch=4, device="cpu", progress=False)
    make(real)
    with pytest.raises(ValueError, match="another real"): make(RealImages(real.root_path, SANDALS_BAGS, per_class=8))
    save_images(tmp_path / "dm/8-bag", torch.zeros(1, 3, 28, 28))
    with pytest.raises(ValueError, match="not those its manifest names"): make(real)


def test_dm_of_coloured_images_from_noise_is_coloured(real, tmp_path):
    x, y = real.tensors()
    for c, name in enumerate(SANDALS_BAGS): save_images(tmp_path / "tinted" / name, (x[y == c] * torch.tensor([1.0, 0.5, 0.2])[:, None, None]).to(torch.uint8))
    made, _ = RealImages(match_distributions(RealImages(tmp_path / "tinted"), 2, tmp_path / "dm", steps=1, batch=4, init="noise", device="cpu", progress=False)).tensors()
    assert (made[:, 0] != made[:, 2]).any() and len(made) == 4


def test_surrogates_of_two_trainings_are_not_mixed(real, nets, tmp_path):
    shutil.copytree(nets[1], tmp_path, dirs_exist_ok=True)
    assert len(load_surrogates(tmp_path, "cpu")) == 2
    base = dict(seed=0, epochs_factor=0.3, img_size=28, ipc=None)
    for key, change in (("seed", dict(seed=1)), ("epochs", dict(epochs_factor=0.4)), ("ipc", dict(ipc=8)), ("img_size", dict(img_size=32))):
        o = base | change
        train_real(RealImages(real.root_path, SANDALS_BAGS, size=o["img_size"]).tensors(), tmp_path / key, "convnet3", device="cpu", keep=(3,), **o)
        shutil.rmtree(tmp_path / "epoch-003"); shutil.move(tmp_path / key / "epoch-003", tmp_path); shutil.rmtree(tmp_path / key)
        with pytest.raises(ValueError, match=f"epoch-003 .* another training than epoch-001, its {key} differs"): load_surrogates(tmp_path, "cpu")


def test_class_gradients_do_not_depend_on_the_batch(real, nets):
    a, b = (class_gradients(nets[0], real, per_class=12, batch=n) for n in (12, 5))
    assert a.keys() == b.keys() == {0, 1} and all(torch.allclose(a[c], b[c], atol=1e-5) for c in a)


def test_a_surrogate_takes_images_of_any_size(nets):
    assert nets[0][0](torch.zeros(2, 3, 56, 56)).shape == (2, 2)


def test_the_shift_is_downhill_and_as_long_as_was_said(real, nets):
    targets = class_gradients(nets[0], real, per_class=16)
    x = torch.stack([real[0][0], real[20][0]]) / 127.5 - 1
    shift = (guide := guide_of(nets[0], targets, scale=20.0))(a_step(x, [5, 8]))
    assert torch.allclose(shift.flatten(1).square().mean(1).sqrt(), torch.full((2,), 20 * 0.0015 * 0.7 ** 0.5), rtol=1e-4)
    before, after = ([guide.pull(image, c)[1] for image, c in zip(v, (5, 8))] for v in (x, x + shift))         # much shorter steps meet the kinks of the ReLUs
    assert all(b > a for b, a in zip(before, after))


def test_the_gradient_goes_through_the_denoiser(real, nets):
    targets, x = class_gradients(nets[0], real, per_class=16), real[0][0][None] / 127.5 - 1
    flipped = lambda v, t, labels: v.flip(3)
    direct, through = guide_of(nets[0], targets), guide_of(nets[0], targets, denoise=flipped)
    g = direct.attraction(replace(a_step(x, [5]), x0=x.flip(3)))
    assert torch.allclose(through.attraction(a_step(x, [5])), g.flip(3), atol=1e-7) and g.abs().max() > 0


@pytest.mark.parametrize("name", ["mini-dit", "mini-sd"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_denoiser_with_a_graph_predicts_what_the_sampler_sees(name, scale):
    backbone = load_backbone(name, device="cpu")
    x, labels = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 3])
    clean = denoiser(backbone, scale)(x.clone().requires_grad_(), 400, labels)
    assert clean.requires_grad and torch.allclose(clean, backbone.predict(x, 400, labels, guidance_scale=scale).x0, atol=1e-5)


def test_an_image_keeps_away_from_the_most_similar_one_made_and_only_of_the_latest(nets, real):
    targets, x = class_gradients(nets[0], real, per_class=16), torch.randn(1, 3, 28, 28)
    guide = guide_of(nets[0], targets, scale=0.0, memory=1)
    assert guide(a_step(x, [5])).abs().max() == 0                         # nothing made yet
    like, other = x[0] + 0.1 * torch.randn(3, 28, 28), torch.randn(3, 28, 28)
    guide.made = {5: [other, like], 8: [x[0]]}
    shift = guide(a_step(x, [5]))
    assert F.cosine_similarity((x + shift).flatten(), like.flatten(), 0) < F.cosine_similarity(x.flatten(), like.flatten(), 0)
    guide.made[5] = [like, other]
    assert not torch.allclose(guide(a_step(x, [5])), shift)               # only the last is remembered


def test_igd_of_one_class_is_that_of_two_whatever_is_sampled_together(nets, real, tmp_path):
    backbone, targets = load_backbone("mini-dit", device="cpu"), class_gradients(nets[0], real, per_class=16)
    decode = lambda z: backbone.vae.decode(z / backbone.scale + backbone.shift).sample
    options, latents = dict(guidance_scale=1.0, num_inference_steps=4), []
    both = {"5-sandal": 5, "8-bag": 8}
    for names, batch in ((both, 100), ({"8-bag": 8}, 100), (both, 1)):
        guide = replace(guide_of(nets[0], targets, scale=200.0, start=0.0, stop=0.5), decode=decode, made={}, distances={})
        sample_in_turn(backbone, names, 2, tmp_path / f"{len(names)}-{batch}", guide, 0, options, batch)
        latents.append(torch.stack(guide.made[8]))
    assert max((latents[0] - z).abs().max() for z in latents[1:]) < 1e-3 and (latents[0][0] - latents[0][1]).abs().max() > 0.1


def test_what_igd_learns_is_learned_once_for_a_path_and_anew_for_images_that_were_sent(nets, real):
    backbone, classes, found = load_backbone("mini-dit", device="cpu"), {"5-sandal": 5, "8-bag": 8}, []
    learned_once.cache_clear()
    for split in (str(real.root_path), real.root_path, pickle.loads(pickle.dumps(str(real.root_path))), real, pickle.loads(pickle.dumps(real))):
        before = learned_once.cache_info().misses
        guide = influence_of(backbone, nets[1], split, classes, 1.5, per_class=12)
        found.append((learned_once.cache_info().misses - before, guide.settings()))
    assert [n for n, _ in found] == [1, 0, 0, 1, 1] and all(s == found[0][1] for _, s in found)


@pytest.mark.parametrize("method", ["herding", "kcenter"])
def test_seeds_of_a_method_without_chance_differ_by_the_half_they_choose_from(real, tmp_path, method):
    make = lambda seed, pool: folder_hash(real_coreset(real, 3, tmp_path / f"{seed}-{pool}", method=method, seed=seed, pool=pool))
    assert make(0, 0.5) != make(1, 0.5) and make(0, 1.0) == make(1, 1.0)
    with pytest.raises(ValueError, match="another pool"): real_coreset(real, 3, tmp_path / "0-1.0", method=method, pool=0.5)
    with pytest.raises(ValueError, match="leaves 8 images"): real_coreset(real, 9, tmp_path / "x", method=method, pool=0.5)
