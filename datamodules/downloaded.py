"""Data sets of a few public files: fetched once, verified, then parsed by torchvision."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from torchvision.datasets.utils import calculate_md5

from primenet_lightning.datamodules.base import Arrays, ImageDataModule


class DownloadedDataModule(ImageDataModule):
    """A data set whose files are downloaded in ``prepare_data`` and nowhere else.

    A subclass says which files there are (`files`), how to fetch them (`fetch`) and how to parse them
    (`parse`). A file that is there is never downloaded again, nor overwritten. The arguments are those of
    `ImageDataModule`; ``root``, ``download`` and ``verify`` matter here.
    """

    @abstractmethod
    def files(self) -> Mapping[Path, str | None]:
        """The files of the data set, each with the md5 that the official one has (None: not known)."""

    @abstractmethod
    def fetch(self) -> None:
        """Download the files into ``root``."""

    @abstractmethod
    def parse(self) -> Arrays:
        """Read the files, which are there and as they should be.

        Returns:
            Training images, training labels, test images, test labels: uint8 images in one of the layouts that
            `ImageDataModule.load_arrays` takes, and labels (images,).
        """

    def prepare_data(self) -> None:
        """Download what is missing, on one process, if ``download`` allows it.

        Raises:
            OSError: If the download fails.
        """
        if not self.download or all(path.is_file() for path in self.files()):
            return
        try:
            self.fetch()
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"{self.name} could not be downloaded into root={str(self.root)!r} ({error}); "
                "put its files there by hand, or point root or PRIMENET_DATA at a folder that has them."
            ) from error

    def load_arrays(self) -> Arrays:
        """Check that the files are there and undamaged, then parse them.

        Returns:
            Training images, training labels, test images, test labels, as `parse` gives them; labels are (images,).

        Raises:
            FileNotFoundError: If a file is missing.
            OSError: If a file is damaged.
        """
        check_files(self.name, self.root, self.files(), verify=self.verify)
        try:
            return self.parse()
        except Exception as error:  # idx, pickle and MATLAB readers raise whatever damaged bytes make of them
            raise OSError(
                f"{self.name} under root={str(self.root)!r} cannot be parsed ({type(error).__name__}: "
                f"{error}); delete {', '.join(path.name for path in self.files())} there and run again with "
                "download=True."
            ) from error


def check_files(name: str, root: Path, files: Mapping[Path, str | None], *, verify: bool) -> None:
    """Check that files are there and, if asked, that they are the official ones.

    Args:
        name: The data set.
        root: The folder that the user gave.
        files: Each file with its official md5; None if not known.
        verify: Compare the md5.

    Raises:
        FileNotFoundError: If a file is missing.
        OSError: If ``verify`` and a file's content is not the official one.
    """
    for path, md5 in files.items():
        if not path.is_file():
            raise FileNotFoundError(
                f"{name} is not complete under root={str(root)!r}: {path} is missing; let the trainer or "
                "prepare_data() fetch it with download=True, or point root or PRIMENET_DATA at a folder "
                "that has it."
            )
        if verify and md5 is not None and calculate_md5(path) != md5:
            raise OSError(
                f"{name} is damaged under root={str(root)!r}: {path} does not have the official md5 {md5}; "
                "delete it and run again with download=True, or read it as it is with verify=False."
            )
