"""CIFAR-100."""

from typing import Any, ClassVar

from torchvision import datasets

from primenet_lightning.datamodules.cifar10 import CIFAR10DataModule, Unverified

CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
"""The fine classes, in the order of their labels, which is that of the alphabet."""


class _Parser(Unverified, datasets.CIFAR100):  # type: ignore[misc]
    pass


class CIFAR100DataModule(CIFAR10DataModule):
    """50,000 training and 10,000 test colour images of 100 objects, 32x32, in ``root/cifar-100-python``.

    The arguments are those of `ImageDataModule`.

    Example:
        >>> data = CIFAR100DataModule(batch_size=100)
        >>> data.in_channels, data.image_size, data.num_classes, data.class_names[99]
        (3, (32, 32), 100, 'worm')
    """

    name = "cifar100"
    num_classes = 100
    class_names = tuple(CLASSES.split())
    torchvision_dataset: ClassVar[Any] = datasets.CIFAR100
    parser: ClassVar[Any] = _Parser
