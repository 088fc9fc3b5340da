"""Small models of torchvision's families, for images of 3x32x32 and five classes."""

from functools import partial
from typing import Any

from torch import nn
from torchvision.models import ConvNeXt, DenseNet, ResNet, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock


class ThinResNet(ResNet):  # type: ignore[misc]
    """An eighth of torchvision's widths."""

    def _make_layer(self, block: Any, planes: int, *args: Any, **options: Any) -> nn.Sequential:
        stage: nn.Sequential = super()._make_layer(block, planes // 8, *args, **options)
        return stage


def resnet(**options: Any) -> nn.Module:
    """Four stages of two, two, one and one blocks, of 8, 16, 32 and 64 channels."""
    model = ThinResNet(BasicBlock, [2, 2, 1, 1], **options)
    model.fc = nn.Linear(64, 5)
    return model


def densenet(**options: Any) -> nn.Module:
    """Three dense blocks of two, three and two layers."""
    model: nn.Module = DenseNet(4, (2, 3, 2), 8, num_classes=5, **options)
    return model


def vit(**options: Any) -> nn.Module:
    """Four transformer blocks on 16 patches and a class token."""
    model: nn.Module = VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=5, **options)
    return model


def swin(**options: Any) -> nn.Module:
    """Two stages of two blocks, channels last, with stochastic depth."""
    model: nn.Module = SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=5, **options)
    return model


def convnext(**options: Any) -> nn.Module:
    """Three stages of one, two and one blocks, with layer scale and stochastic depth."""
    stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)]
    norm = partial(nn.BatchNorm2d, eps=1e-6)
    model: nn.Module = ConvNeXt(stages, 0.5, num_classes=5, norm_layer=norm, **options)
    return model
