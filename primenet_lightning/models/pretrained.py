"""Weights and a description of a trained network in a folder that holds no code: safetensors and JSON."""

import importlib.util
from pathlib import Path
from typing import TypeVar

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn

from primenet_lightning.arguments import first_line
from primenet_lightning.files import whole, write_whole
from primenet_lightning.models.pretrained_config import CONFIG, WEIGHTS, PretrainedConfig, read_config, write_config
from primenet_lightning.models.weight_files import read_weights
from primenet_lightning.nn.predicting import predicting
from primenet_lightning.training.learner import LocalLearner

Model = TypeVar("Model", bound="Pretrained")


class Pretrained(LocalLearner):
    """A model that is saved in, and read from, a folder that holds no code.

    Attributes:
        only_predicts: Whether it was read from such a folder, without what it learned by.
    """

    only_predicts: bool = False

    def final_model(self) -> "Pretrained":
        """Give the model that is left when training is over: this one, or of a subclass another one.

        Returns:
            A model of the same answers, but for a `CondenseNet` with ``halve_classifier``.

        Raises:
            ValueError: If it has not learned long enough.
        """
        return self

    def save_pretrained(self, folder: str | Path, keep_classifiers: bool = False) -> Path:
        """Save the network as it predicts, and nothing else: of a routed block only the routed capsule.

        Of a model that becomes another one when its training is over that other one is saved, see `final_model`: a
        `CondenseNet` converted; of a `OneNet` its `TargetResNet`, which is read by ``TargetResNet.from_pretrained``.

        Args:
            folder: Where ``model.safetensors`` and ``config.json`` are written; made where it is missing.
            keep_classifiers: Whether local classifiers are saved, too, so that images may leave by them.

        Returns:
            The folder.

        Raises:
            ValueError: If nobody could build the network again from its arguments, if its data are not described, if
                it has not learned long enough, or if safetensors is not installed.

        Example:
            >>> model.save_pretrained("mnist-deep")  # doctest: +SKIP
        """
        needs("safetensors", "export")
        from safetensors.torch import save_file

        model = self.final_model()
        config = PretrainedConfig.of(model, keep_classifiers)
        network = predicting(model.network, config.choices, keep_classifiers)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _named_tensors(network).items()}
        folder = Path(folder).expanduser()
        with whole(folder / WEIGHTS) as draft:
            save_file(tensors, draft, metadata={"format": "pt"})
        write_whole(folder / CONFIG, write_config(config))
        return folder

    @classmethod
    def from_pretrained(cls: type[Model], name: str | Path) -> Model:
        """Read a model from a folder, or from the Hugging Face hub. No code of theirs is run.

        Args:
            name: A folder that `save_pretrained` wrote; or ``"owner/name"`` on the hub, which is downloaded.

        Returns:
            The model, in evaluation mode, on the CPU. Called on `PrimeNet`, or another class of this package, it may
            be any of its subclasses in this package; a class of your own reads what it has saved itself.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it is not whole, of a newer format, or of a class that is not to be trusted.

        Example:
            >>> PrimeNet.from_pretrained("mnist-deep")  # doctest: +SKIP
        """
        folder = _folder_of(name)
        config = read_config(folder)
        with torch.random.fork_rng(devices=[]):  # the first weights are thrown away
            model = config.build(cls)
        before = sum(parameter.numel() for parameter in model.parameters())
        model.network = predicting(model.network, config.choices, config.keeps_classifiers)
        model.only_predicts = sum(parameter.numel() for parameter in model.parameters()) < before
        if hasattr(model, "evaluate_capsules"):
            setattr(model, "evaluate_capsules", False)  # noqa: B010  they have no classifiers
        model.to(config.torch_dtype)
        _load_weights(model.network, folder / WEIGHTS)
        config.restore(model)
        return model.eval()

    def push_to_hub(self, name: str, private: bool = False) -> str:
        """Save the network in a repository of the Hugging Face hub, with the account that is logged in there.

        Args:
            name: ``"owner/name"`` of the repository; made where it is missing.
            private: Whether a new repository is private.

        Returns:
            The address of the commit.

        Raises:
            ValueError: As `save_pretrained`, or if huggingface_hub is not installed.
        """
        needs("huggingface_hub", "hub")
        import tempfile

        import huggingface_hub

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            huggingface_hub.create_repo(name, private=private, exist_ok=True)
            return str(huggingface_hub.upload_folder(repo_id=name, folder_path=folder))

    def check(self, trainer: Trainer, stage: str, datamodule: LightningDataModule | None = None) -> None:
        """As in `LocalLearner`; and refuse to train what only predicts.

        Args:
            trainer: The Trainer.
            stage: Lightning's.
            datamodule: The data; None takes the Trainer's.

        Raises:
            ValueError: As `LocalLearner.check`, or for such a fit.
        """
        if stage == "fit" and self.only_predicts:
            raise ValueError(
                f"this {type(self).__name__} was read by from_pretrained, which leaves out what it learned by; fit a "
                "new one, or go on from a checkpoint"
            )
        super().check(trainer, stage, datamodule)


def needs(library: str, extra: str) -> None:
    """Refuse to go on without a library that is optional.

    Args:
        library: What is imported.
        extra: Of this package, which installs it.

    Raises:
        ValueError: If it is not installed.

    Example:
        >>> needs("no_such_library", "export")
        Traceback (most recent call last):
        ...
        ValueError: no_such_library is not installed; install it: pip install 'primenet-lightning[export]'
    """
    if importlib.util.find_spec(library) is None:
        raise ValueError(f"{library} is not installed; install it: pip install 'primenet-lightning[{extra}]'")


def _folder_of(name: str | Path) -> Path:
    """The folder; downloaded where it is on the hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{name} is a file; give the folder that save_pretrained wrote")
    owner, slash, rest = str(name).partition("/")
    if not (slash and owner.strip("./~") and rest and "/" not in rest):
        raise FileNotFoundError(f"{name} does not exist; give the folder that save_pretrained wrote")
    needs("huggingface_hub", "hub")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(str(name), allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # each kind of trouble with the network has its own
        raise FileNotFoundError(
            f"{name} is no folder here, and the Hugging Face hub does not give it ({first_line(error)}); check the name"
        ) from error


def _named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters, and buffers that are saved; what has two names once. States that are no weights are left out."""
    tensors: dict[str, Tensor] = dict(network.named_parameters())
    saved = network.state_dict(keep_vars=True)
    for name, buffer in network.named_buffers():
        if name in saved:
            tensors[name] = buffer
    return tensors


@torch.no_grad()
def _load_weights(network: nn.Module, path: Path) -> None:
    """Fill the network from a file."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; the folder holds no weights that are safe to load")
    tensors = read_weights(path)
    wanted = _named_tensors(network)
    for name in sorted(wanted.keys() ^ tensors.keys()):
        where = "lacks" if name in wanted else "has, and the network has not,"
        raise ValueError(f"{path} {where} {name!r}; it is not of the network that {CONFIG} describes")
    for name, tensor in wanted.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"{path} has {name!r} of shape {tuple(tensors[name].shape)}, but {CONFIG} describes a network where it "
                f"has {tuple(tensor.shape)}"
            )
        tensor.copy_(tensors[name])
