"""The field's protocols, value for value: what a resolved preset says, and what its optimizer does epoch by epoch."""
import math
import pytest, torch
from dap.evaluate import optimizer_of, scaled, settings
from dap.nets import convnet3, convnet4, convnet5

named = pytest.mark.parametrize
HARD = dict(label="hard", batch=64, img_size=224, resize=None, scale=(0.5, 1.0), flip=0.5, jitter=0.4, lighting=0.1, cutmix=1.0, mixup=0.0, smoothing=0.0, patches=1, schedule="multistep", gamma=0.2,
            mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), as_stored=False, epochs=2000)
SOFT = dict(label="soft", optimizer="adamw", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01, img_size=224, resize=256, flip=0.5, jitter=0.0, lighting=0.0, cutmix=1.0, mixup=0.0, patches=1, temperature=20, epochs=300, as_stored=True)
AT_TEN = {      # 10 classes, IPC 10, a ResNet-18
    "minimax": HARD | dict(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, decay_vectors=True),
    "igd": HARD | dict(optimizer="adamw", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01, decay_vectors=True),
    "rded": SOFT | dict(schedule="half-cosine", batch=50, scale=(0.5, 1.0), decay_vectors=False, stored=False),
    "fkd": SOFT | dict(schedule="cosine", batch=1024, scale=(0.08, 1.0), decay_vectors=True, stored=True),
}


def resolved(protocol, classes=10, ipc=10, arch="resnet18_in", **change):
    return scaled(settings({"base": protocol, **change} if change else protocol, 224), torch.arange(classes).repeat(ipc), 1.0, 1, arch)


@named("protocol", AT_TEN)
def test_values(protocol):
    r = resolved(protocol)
    assert {k: r[k] for k in AT_TEN[protocol]} == AT_TEN[protocol]


@named("classes, wanted", [(10, {1: 3000, 2: 2000, 10: 2000, 11: 1500, 50: 1500, 51: 1000, 200: 1000, 500: 500, 501: 300}), (100, {1: 2000, 10: 1300, 50: 1000, 200: 600, 201: 300, 501: 200}), (101, {1: 3000, 10: 2000})])
@named("protocol", ["minimax", "igd"])
def test_epochs(protocol, classes, wanted):
    assert {ipc: resolved(protocol, classes, ipc)["epochs"] for ipc in wanted} == wanted


def test_many_classes():
    r, few = resolved("minimax", 101), resolved("minimax", 100)
    assert (r["lr"], r["weight_decay"], r["batch"]) == (0.1, 1e-4, 128) and (few["lr"], few["weight_decay"], few["batch"]) == (0.01, 5e-4, 64)


@named("classes, wanted", [(10, {1: 10, 10: 50, 50: 100}), (50, {10: 50}), (100, {1: 20, 10: 100, 50: 200}), (1000, {10: 100, 50: 200})])
def test_batches_of_rded(classes, wanted):
    assert {ipc: resolved("rded", classes, ipc)["batch"] for ipc in wanted} == wanted


@named("arch, lr", [("convnet3", 1e-3), ("resnet18", 1e-3), ("resnet101", 1e-3), ("efficientnet_b0", 2e-3), ("mobilenetv2_100", 2.5e-3), ("swin_tiny_patch4_window7_224", 1e-4), ("vit_tiny_patch16_224", 1e-4)])
def test_learning_rates_of_rded(arch, lr):
    assert resolved("rded", arch=arch)["lr"] == lr and resolved("fkd", arch=arch)["lr"] == 1e-3


def test_temperatures():
    assert resolved("rded", cutmix=0.0, mixup=0.8)["temperature"] == 4 and resolved("rded")["temperature"] == 20


def share(protocol):
    "Return the learning rate of each epoch over the first, and the optimizer."
    net, r = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GroupNorm(4, 4)), resolved(protocol)
    opt, schedule = optimizer_of(net, r)
    rates = []
    for _ in range(r["epochs"] + 1):
        rates.append(opt.param_groups[0]["lr"] / r["lr"])
        opt.step(); schedule.step()
    return rates, opt


@named("protocol", ["minimax", "igd"])
def test_steps(protocol):
    rates, opt = share(protocol)
    assert [round(rates[e], 9) for e in (0, 1332, 1333, 1665, 1666, 1999)] == [1, 1, 0.2, 0.2, 0.04, 0.04]
    assert type(opt) is {"minimax": torch.optim.SGD, "igd": torch.optim.AdamW}[protocol] and len(opt.param_groups) == 1
    if protocol == "minimax": assert opt.param_groups[0]["momentum"] == 0.9 and not opt.param_groups[0]["nesterov"] and opt.param_groups[0]["dampening"] == 0


@named("protocol, end, half", [("rded", 0.5, 0.5 * (1 + math.cos(math.pi / 4))), ("fkd", 0.0, 0.5)])
def test_cosines(protocol, end, half):
    rates, opt = share(protocol)
    assert rates[0] == 1 and abs(rates[150] - half) < 1e-9 and abs(rates[300] - end) < 1e-9 and type(opt) is torch.optim.AdamW
    decays = {g["weight_decay"]: [p.dim() for p in g["params"]] for g in opt.param_groups}
    assert decays == ({0.01: [2], 0.0: [1, 1, 1]} if protocol == "rded" else {0.01: [2, 1, 1, 1]})


@named("make, blocks, size", [(convnet3, 3, 28), (convnet4, 4, 64), (convnet5, 5, 112)])
def test_convnets_take_their_size(make, blocks, size):
    net = make(num_classes=7, img_size=size)
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    x = torch.randn(2, 3, size, size)
    logits = net(x)
    assert [c.out_channels for c in convs] == [128] * blocks and logits.shape == (2, 7) and not torch.allclose(logits[0], logits[1])
    net.eval(); assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)      # no image sees its neighbours
