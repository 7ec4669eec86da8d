"""What guidance costs, counted; no clock is looked at."""
from types import SimpleNamespace
import pytest, torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode
from dap.backbones import DiTBackbone
from dap.bank import FeatureBank
from dap.guidance import DAP
from dap.sampling import Step

LAYER, BATCH, REAL = "transformer_blocks.8", 10, 50


@pytest.fixture(scope="module")
def xl():
    "DiT-XL/2 at its true size, without weights."
    scheduler = DDIMScheduler()
    with torch.device("meta"):
        net = DiTTransformer2DModel(num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, sample_size=32, patch_size=2, num_embeds_ada_norm=1000)
        return DiTBackbone(SimpleNamespace(transformer=net, vae=AutoencoderKL(latent_channels=4), scheduler=scheduler), device="meta")


def flops(xl, guided, layer=LAYER, real=REAL):
    "Count one step: prediction with classifier-free guidance and, if guided, DAP's energy and gradient."
    leaf, labels = torch.randn(BATCH, *xl.latent_shape, device="meta").requires_grad_(guided), torch.zeros(BATCH, dtype=torch.long, device="meta")
    x = leaf.view_as(leaf)
    with FlopCounterMode(display=False) as count:
        p = xl.predict(x, 500, labels, guidance_scale=4.0, layer=layer if guided else None)
        if guided: torch.autograd.grad(DAP(None).energy(p.z, torch.randn(real, p.z.shape[1], device="meta")).sum(), x)
    return count.get_total_flops()


def test_a_plain_step_has_the_flops_of_dit_xl_2(xl):
    blocks = 28 * (24 * 256 * 1152 ** 2 + 4 * 256 ** 2 * 1152)               # multiply-adds x 2: qkv, out, mlp; attention
    assert abs(flops(xl, False) / (2 * BATCH * blocks) - 1) < 0.02


def test_a_guided_step_costs_at_most_a_fifth_more_at_dit_xl_2(xl):
    ratio = flops(xl, True) / flops(xl, False)
    print(f"guided / plain FLOPs at DiT-XL/2, {LAYER}: {ratio:.3f}")
    assert 1.10 < ratio <= 1.20


def test_a_later_layer_costs_more(xl):
    assert flops(xl, True, "transformer_blocks.4") < flops(xl, True) < flops(xl, True, "transformer_blocks.27")


def test_twenty_times_the_real_samples_cost_next_to_nothing(xl):
    assert flops(xl, True, real=64) < flops(xl, True, real=1300) <= 1.10 * flops(xl, True, real=64)
