"""Which models can be cut: builds many without weights, cuts each automatically, checks it, and prints a table.

    python benchmarks/cut_models.py                   # models of torchvision, and of timm where it is installed
    python benchmarks/cut_models.py resnet18 swin_t   # some models
    python benchmarks/cut_models.py --parts 2 8       # into other numbers of parts

Of each model and number of parts: whether the parts give what the uncut model gives, to the last bit, in evaluation
and, from the same random numbers, in training, so that dropout and stochastic depth are alive; whether a loss of each
part reaches its own parameters and no others; and whether the names of the weights are as before. The last line is one
JSON object.
"""

import argparse
import gc
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from primenet_lightning import cut
from primenet_lightning.arguments import first_line
from primenet_lightning.models.backbones import build_backbone
from primenet_lightning.nn.cutting.parts import Part

TORCHVISION = {
    "AlexNet": ["alexnet"],
    "VGG": ["vgg11", "vgg11_bn"],
    "ResNet": ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"],
    "DenseNet": ["densenet121"],
    "Inception": ["googlenet", "inception_v3"],
    "SqueezeNet": ["squeezenet1_1"],
    "ShuffleNet": ["shufflenet_v2_x1_0"],
    "MobileNet": ["mobilenet_v2", "mobilenet_v3_large"],
    "MNASNet": ["mnasnet1_0"],
    "EfficientNet": ["efficientnet_b0", "efficientnet_v2_s"],
    "RegNet": ["regnet_y_400mf", "regnet_x_400mf"],
    "ConvNeXt": ["convnext_tiny"],
    "ViT": ["vit_b_16"],
    "Swin": ["swin_t", "swin_v2_t"],
    "MaxViT": ["maxvit_t"],
}
"""Models of torchvision by family."""

TIMM = {
    "ResNet": ["resnet26", "resnetv2_50", "resnest14d", "res2net50_26w_4s", "nf_resnet26"],
    "ViT": ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224"],
    "CaiT": ["cait_xxs24_224"],
    "XCiT": ["xcit_nano_12_p16_224"],
    "Hiera": ["hiera_tiny_224"],
    "MLP": ["mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224"],
    "ConvNeXt": ["convnext_atto", "convnextv2_atto", "inception_next_tiny"],
    "LeViT": ["levit_128s"],
    "EfficientFormer": ["efficientformer_l1", "efficientformerv2_s0"],
    "MobileNet": ["mobilenetv4_conv_small", "mobilenetv3_small_100"],
    "MobileViT": ["mobilevit_s", "mobilevitv2_050"],
    "Swin": ["swin_tiny_patch4_window7_224"],
    "CoAtNet": ["coatnet_nano_rw_224"],
    "PVT": ["pvt_v2_b0", "twins_pcpvt_small"],
    "PoolFormer": ["poolformer_s12"],
    "CrossViT": ["crossvit_tiny_240"],
    "TNT": ["tnt_s_legacy_patch16_224"],
    "HRNet": ["hrnet_w18_small"],
    "DLA": ["dla34"],
    "RepVGG": ["repvgg_a0"],
    "GhostNet": ["ghostnet_100"],
    "EdgeNeXt": ["edgenext_xx_small"],
    "VOLO": ["volo_d1_224"],
    "FastViT": ["fastvit_t8"],
    "Xception": ["xception41"],
    "DPN": ["dpn48b"],
    "VovNet": ["ese_vovnet19b_dw"],
    "DaViT": ["davit_tiny"],
    "FocalNet": ["focalnet_tiny_srf"],
    "GCViT": ["gcvit_xxtiny"],
}
"""Models of timm by family."""

SIZES = {"inception_v3": 299, "xception41": 299, "mobilevit_s": 256, "mobilevitv2_050": 256, "crossvit_tiny_240": 240}
SIZES |= {"edgenext_xx_small": 256, "fastvit_t8": 256, "swin_v2_t": 256}
"""Height and width of the images that a model is built for, where it is not 224."""


@dataclass
class Row:
    """What became of one model.

    Attributes:
        family: Of the model.
        name: Of the model.
        begins: By number of parts, the names of the modules that the second part and those after it begin with.
        faults: What is not as it should be.
        refusal: Why it cannot be cut; empty where it can.
        seconds: That cutting took.
    """

    family: str
    name: str
    begins: dict[int, list[str]]
    faults: list[str]
    refusal: str = ""
    seconds: float = 0.0


def joined(parts: Iterable[nn.Module], x: Tensor) -> Tensor:
    """What parts in a row give."""
    for part in parts:
        x = part(x)
    return x


def faults_of(model: nn.Module, parts: Sequence[Part], x: Tensor) -> list[str]:
    """What is not as it should be: the output in both modes, and whom each part's loss reaches."""
    faults: list[str] = []
    for training in (False, True):
        model.train(training)
        with torch.no_grad():
            torch.manual_seed(0)
            whole = model(x)
            torch.manual_seed(0)
            in_parts = joined(parts, x)
        if not torch.equal(whole, in_parts):
            mode = "training" if training else "evaluation"
            faults.append(f"output in {mode}: {float((whole - in_parts).abs().max()):.1e} away")
    for index, part in enumerate(parts):
        y = part(x)
        y.square().mean().backward()
        own = {id(parameter) for parameter in part.parameters()}
        reached = {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
        if not reached or not reached <= own:
            faults.append(f"the loss of part {index} reaches others")
        model.zero_grad()
        x = y.detach()
    return faults


def tried(family: str, name: str, numbers: Sequence[int]) -> Row:
    """Build a model, cut it, and look at it."""
    size = SIZES.get(name.rpartition("/")[2], 224)
    row = Row(family, name, {}, [])
    try:
        model = build_backbone(name, (3, size, size), num_classes=10)
        keys = list(model.state_dict())
        for number in numbers:
            started = time.perf_counter()
            parts = cut(model, (3, size, size), parts=number)
            row.seconds += time.perf_counter() - started
            row.begins[number] = [part.name for part in parts[1:]]
            row.faults += faults_of(model, parts, torch.randn(2, 3, size, size))
            if list(model.state_dict()) != keys:
                row.faults.append("names of weights changed")
    except ValueError as error:
        row.refusal = first_line(error)
    return row


def markdown(rows: Sequence[Row], numbers: Sequence[int]) -> str:
    """The table of what was cut, and the list of what was refused."""
    columns = [f"{number} parts begin with" for number in numbers]
    lines = ["| family | model | " + " | ".join(columns) + " | as uncut |", "|---" * (3 + len(numbers)) + "|"]
    for row in rows:
        if not row.refusal:
            begins = " | ".join(", ".join(row.begins[number]) for number in numbers)
            lines.append(f"| {row.family} | {row.name} | {begins} | {'; '.join(row.faults) or 'yes'} |")
    lines.append("")
    for row in rows:
        if row.refusal:
            lines.append(f"- {row.name} is refused: {row.refusal}")
    return "\n".join(lines)


def chosen(names: Sequence[str]) -> list[tuple[str, str]]:
    """Family and name of the models asked for; all where none is named."""
    models = [(family, name) for family, members in TORCHVISION.items() for name in members]
    models += [(family, f"timm/{name}") for family, members in TIMM.items() for name in members]
    if not names:
        return models
    families = {name: family for family, name in models}
    return [(families.get(name, ""), name) for name in names]


def main(argv: Sequence[str] | None = None) -> None:
    """Try the models, and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names; all where none is given")
    parser.add_argument("--parts", type=int, nargs="+", default=[2, 4])
    args = parser.parse_args(argv)
    rows: list[Row] = []
    for family, name in chosen(args.models):
        rows.append(tried(family, name, args.parts))
        print(f"{name}: {rows[-1].refusal or '; '.join(rows[-1].faults) or 'as uncut'}", flush=True)
        gc.collect()
    print(markdown(rows, args.parts))
    cut_ones = [row for row in rows if not row.refusal]
    summary = {
        "models": len(cut_ones),
        "families": len({row.family for row in cut_ones}),
        "with_faults": len([row for row in cut_ones if row.faults]),
        "refused": len(rows) - len(cut_ones),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
