"""Street View House Numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5, download_url

from primenet_lightning.datamodules.base import Arrays
from primenet_lightning.datamodules.downloaded import DownloadedDataModule

SUBSET_FOLDER = "svhn-subset"


class SVHNDataModule(DownloadedDataModule):
    """73,257 training and 26,032 test colour images of house numbers, 32x32, in ``root/*_32x32.mat``.

    With ``verify=False`` files with other content are read too, from ``root`` or from ``root/svhn-subset``;
    then `dataset_name` is ``"svhn-subset"``, so that no result of theirs passes for one of SVHN.

    Args:
        extra: Add the 531,131 easier images of ``extra_32x32.mat`` to the training images.
        **kwargs: The arguments of `ImageDataModule`.

    Example:
        >>> data = SVHNDataModule(extra=True, batch_size=100)
        >>> data.in_channels, data.image_size, data.num_classes
        (3, (32, 32), 10)
    """

    name = "svhn"
    num_classes = 10
    in_channels = 3
    image_size = (32, 32)
    class_names = tuple("0123456789")

    def __init__(self, *, extra: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extra = extra
        self._official = True

    @property
    def dataset_name(self) -> str:
        """``"svhn"``, or ``"svhn-subset"`` once files with other content have been read."""
        return self.name if self._official else SUBSET_FOLDER

    def files(self) -> Mapping[Path, str | None]:
        """One file a split, with the md5 that torchvision knows."""
        return {self._path(split): datasets.SVHN.split_list[split][2] for split in self._splits()}

    def fetch(self) -> None:
        """Download the missing files; parsing can wait for ``setup``."""
        for split in self._splits():
            url, file_name, md5 = datasets.SVHN.split_list[split]
            if not self._path(split).is_file():
                download_url(url, str(self.root), file_name, md5)

    def parse(self) -> Arrays:
        """Let torchvision parse the splits, which also turns their label 10 into 0."""
        self._official = self.verify or self._all_official()
        train = self._parsed("train")
        test = self._parsed("test")
        if not self.extra:
            return train.data, train.labels, test.data, test.labels
        extra = self._parsed("extra")
        images = np.concatenate([train.data, extra.data])
        labels = np.concatenate([train.labels, extra.labels])
        return images, labels, test.data, test.labels

    def _all_official(self) -> bool:
        return all(calculate_md5(path) == md5 for path, md5 in self.files().items())

    def _parsed(self, split: str) -> "_Parser":
        return _Parser(self._path(split).parent, split=split)

    def _splits(self) -> tuple[str, ...]:
        return ("train", "test", "extra") if self.extra else ("train", "test")

    def _path(self, split: str) -> Path:
        file_name: str = datasets.SVHN.split_list[split][1]
        subset = self.root / SUBSET_FOLDER / file_name
        official = self.root / file_name
        use_subset = not self.verify and not official.is_file() and subset.is_file()
        return subset if use_subset else official


class _Parser(datasets.SVHN):  # type: ignore[misc]
    """torchvision's parser without its own verification: the data module has verified, or was told not to."""

    def _check_integrity(self) -> bool:
        return True
