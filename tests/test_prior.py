"""The shipped priors are whole, small, and say what made them."""
import hashlib, json
from pathlib import Path
import pytest
from safetensors.torch import load_file
from dap.prior import captions, is_stale

ASSETS = Path(__file__).resolve().parents[1] / "assets"
KINDS = {"mini-dit": {"transformer", "vae"}, "mini-sd": {"text_encoder", "unet", "vae"}}     # kind of prior -> its parts with weights


@pytest.fixture(params=KINDS)
def prior(request):
    "Return the folder of a shipped prior and its manifest."
    folder = ASSETS / request.param
    if not (folder / "manifest.json").exists(): pytest.skip(f"not trained yet: assets/{request.param}")
    return folder, json.loads((folder / "manifest.json").read_text())


def test_weights_are_those_of_the_manifest_and_fit_in_25_megabytes(prior):
    folder, record = prior
    files = sorted(folder.rglob("*.safetensors"))
    assert {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files} == record["weights"] and {f.parent.name for f in files} == KINDS[folder.name]
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 25e6


def test_it_was_made_by_the_code_that_is_here(prior):
    folder, record = prior
    assert record["kind"] == folder.name
    if is_stale(folder): pytest.skip(f"STALE: assets/{folder.name} was trained by other code than dap/prior.py now holds: train it again, or say so with every number")
    assert record["images"] == 54_000


def test_all_priors_share_one_autoencoder(prior):
    ours, dits = (load_file(p / "vae/diffusion_pytorch_model.safetensors") for p in (prior[0], ASSETS / "mini-dit"))
    assert ours.keys() == dits.keys() and all((ours[k] == dits[k]).all() for k in dits)


def test_mini_sd_draws_in_the_pipeline_of_diffusers_unchanged():
    if not (ASSETS / "mini-sd/model_index.json").exists(): pytest.skip("not trained yet: assets/mini-sd")
    pytest.importorskip("transformers")
    import torch
    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(ASSETS / "mini-sd", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    record = json.loads((ASSETS / "mini-sd/manifest.json").read_text())
    prompts = captions(record["class_names"], record["prompt"])[:len(record["class_names"])]
    noise = torch.randn(len(prompts), 4, 14, 14, generator=torch.Generator().manual_seed(0))
    draw = lambda texts: pipe(texts, latents=noise, height=32, width=32, num_inference_steps=4, guidance_scale=1.5, generator=torch.Generator().manual_seed(0), output_type="pt").images
    images, empty = draw(prompts), draw([""] * len(prompts))
    assert prompts == record["prompts"] and images.shape == (10, 3, 28, 28) and images.isfinite().all()
    assert (images - empty).abs().flatten(1).mean(1).min() > 1e-3      # every prompt says something
