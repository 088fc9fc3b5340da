"""LocalPipeline: the Trainer's strategy under which stages learn at the same time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.device_dtype_mixin import _update_properties
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.utilities.seed import isolate_rng
from torch import distributed as dist
from torch import nn
from torch.distributed import ProcessGroup, Store  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torchmetrics import Metric

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.nn.deferring import deferring
from primenet_lightning.pipeline.exchange import PipelineExchange
from primenet_lightning.pipeline.gathering import merged, own_state, part_of
from primenet_lightning.pipeline.line import Line, on_cpu
from primenet_lightning.pipeline.loss import Watch
from primenet_lightning.pipeline.memory import free_others, move, tensors_of_others
from primenet_lightning.pipeline.placement import place_stages, refuse_begins, seconds_of_stages
from primenet_lightning.pipeline.refusals import refuse_model, refuse_processes, refuse_trainer
from primenet_lightning.pipeline.requests import Requests
from primenet_lightning.pipeline.section import PipelineSection
from primenet_lightning.training.evaluator import Evaluator
from primenet_lightning.training.exchange import ALONE, Exchange, Replicas
from primenet_lightning.training.refusals import refuse_divided

NAME = "local_pipeline"
"""What ``Trainer(strategy=...)`` takes."""


class LocalPipeline(DDPStrategy, metaclass=CheckedArguments):
    """Stages in several processes that learn at the same time, each on another batch, to the numbers of one process.

    A stage needs from the one before it the map of a batch, and nothing ever comes back: so each process goes on to its
    next batch as soon as it has handed a map on. Every process loads the whole batch, for its labels. Results are
    complete on rank 0, which has the last stages. Checkpoints are whole; each goes on with any number of processes.

    Args:
        replicas: How many processes have the same stages, and share out the batch; their number divides that of the
            devices.
        begins: Names of the stages that the second process and those after it begin with; by default stages are
            shared out by the time that they take, measured when the fit begins.
        process_group_backend: Of torch.distributed: gloo, since maps go through the host's memory.
        **options: Further ones of Lightning's `DDPStrategy`, such as ``timeout``.

    Raises:
        ValueError: If ``replicas`` is not positive, or the backend knows no tensors on the CPU.

    Example:
        >>> strategy = LocalPipeline(begins=["block2"])
        >>> trainer = Trainer(strategy=strategy, accelerator="cpu", devices=2, logger=False)
        >>> by_name = Trainer(strategy="local_pipeline", accelerator="cpu", devices=4, logger=False)
    """

    def __init__(
        self, replicas: int = 1, begins: Sequence[str] = (), process_group_backend: str = "gloo", **options: Any
    ) -> None:
        at_least(1, replicas=replicas)
        if "gloo" not in process_group_backend:
            raise ValueError(
                f"process_group_backend={process_group_backend!r} does not carry the maps of a pipeline, which go "
                "through the host's memory; use 'gloo'"
            )
        super().__init__(process_group_backend=process_group_backend, **options)
        self.replicas = replicas
        self.begins = list(begins)
        self._mesh: DeviceMesh | None = None
        self._section: PipelineSection | None = None
        self._line: Line | None = None
        self._metrics: list[Metric] = []
        self._is_broken = False

    # -- who has what --------------------------------------------------------------------------------------------------

    @property
    def sections(self) -> int:
        """How many processes a row has."""
        return self.num_nodes * self.num_processes // self.replicas

    @property
    def replica(self) -> int:
        """To which row this process belongs."""
        return self.global_rank % self.replicas

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Batches are shared out to replicas; all processes of a row have the same images."""
        return {"num_replicas": self.replicas, "rank": self.replica}

    def check(self, trainer: Trainer, model: LightningModule) -> None:
        """Refuse what cannot work in a pipeline; before the processes are started, too.

        Args:
            trainer: The Trainer.
            model: To be trained.

        Raises:
            ValueError: If it cannot work.
        """
        refuse_processes(self.num_nodes * self.num_processes, self.replicas)
        refuse_trainer(trainer)
        refuse_model(model)
        assert isinstance(model, Evaluator)
        section = self._section
        is_new = section is None or section.network is not model.network
        if is_new and model.deferred is None:
            refuse_divided(model.network)
        if self.begins:
            refuse_begins(model.network, self.begins, self.sections)
        else:
            place_stages(model.network, [1.0] * len(model.network.stages), self.sections)

    def divide(self, model: LightningModule) -> tuple[PipelineSection, Exchange]:
        """Give this process its stages, and let go of all others.

        Args:
            model: To be trained.

        Returns:
            The stages, and the exchange with replicas of them.
        """
        assert isinstance(model, Evaluator)
        if self._section is None or self._section.network is not model.network:
            begins = self._places(model)
            self._line = self._new_line()
            self._section = PipelineSection(model.network, begins, self._line)
            model.fill(without=tensors_of_others(self._section).values())
            free_others(self._section)
        elif self._line is None:
            self._line = self._section.line = self._new_line()
        replicas: Exchange = ALONE
        if self.replicas > 1:
            replicas = Replicas(self._group("replicas"))
        self._count_by_replicas(model)
        line = self._section.line
        requests = Requests(_store(), tells=not line.is_first, listens=line.is_first and self.replica == 0)
        return self._section, PipelineExchange(replicas, line, requests.hear)

    def _places(self, model: Evaluator) -> list[int]:
        """The first stage of each process, as the first process has found it."""
        if self.begins:
            return refuse_begins(model.network, self.begins, self.sections)
        begins: list[int] = []
        if self.is_global_zero:
            begins = place_stages(model.network, seconds_of_stages(model.network), self.sections)
        return self.broadcast(begins)

    def _group(self, dimension: str) -> ProcessGroup:
        if self._mesh is None:
            shape = (self.sections, self.replicas)
            self._mesh = init_device_mesh("cpu", shape, mesh_dim_names=("sections", "replicas"))
        return self._mesh.get_group(dimension)

    def _new_line(self) -> Line:
        """The row of this process: rank 0 has the last stages, since Lightning logs and saves there.

        It has a group of its own: what is still under way in one that was broken off never comes into its way.
        """
        own: Line | None = None
        for replica in range(self.replicas):
            ranks = [section * self.replicas + replica for section in reversed(range(self.sections))]
            group: Any = dist.new_group(ranks)  # which all processes have to make
            if replica == self.replica:
                own = Line(ranks, self.global_rank, group)
        assert own is not None
        return own

    def _count_by_replicas(self, model: LightningModule) -> None:
        """Have torchmetrics add up over the replicas, and not over processes that have other learners."""
        group = self._group("replicas")
        self._metrics = [module for module in model.modules() if isinstance(module, Metric)]
        for metric in self._metrics:
            metric.process_group = group

    # -- set up and taken down -----------------------------------------------------------------------------------------

    @contextmanager
    def tensor_init_context(self, empty_init: bool | None = None) -> Iterator[None]:
        """Have a model built without memory, of which each process then gets its own stages: ``Trainer.init_module``.

        Args:
            empty_init: Lightning's; the weights are those of a model that is built whole, and are never left out.

        Yields:
            Nothing.
        """
        with self.precision_plugin.tensor_init_context(), deferring():
            yield

    def setup_environment(self) -> None:
        """Join the other processes."""
        self._is_broken = False
        super().setup_environment()

    def setup_distributed(self) -> None:
        """Make the process group; random numbers go on as in one process, which Lightning does not seed anew."""
        with isolate_rng():
            super().setup_distributed()
        # Lightning ties the group to a GPU; torch would then split it to make others of it, which gloo cannot
        dist.group.WORLD.bound_device_id = None  # type: ignore[union-attr]

    def setup(self, trainer: Trainer) -> None:
        """Move the model, and build the optimizers; no wrapper averages anything."""
        super(DDPStrategy, self).setup(trainer)
        if self.replicas > 1:
            self._begin_alike()
        # rank 0 would tell all others of a SIGTERM at each batch, for which they would have to wait; see `Requests`
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]

    def _setup_model(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        return model

    def model_to_device(self) -> None:
        """Move the stages that are here."""
        assert self.model is not None
        assert self.lightning_module is not None
        move(self.model, self.root_device)
        # `move` goes around Module.to, which would set it; random numbers in checkpoints are those of this device
        _update_properties(self.lightning_module, device=self.root_device)

    def _begin_alike(self) -> None:
        """Give all replicas the weights of the first."""
        assert self._section is not None
        source = self.global_rank - self.replica
        for stage in self._section.stages:
            for tensor in [*stage.parameters(), *stage.buffers()]:
                dist.broadcast(tensor.detach(), source, group=self._group("replicas"))

    def on_exception(self, exception: BaseException) -> None:
        """Tell in one sentence that a process has ended, on one process; the others end without a word.

        Args:
            exception: What has ended this process's work.

        Raises:
            ProcessLost: If another process has ended.
        """
        self._is_broken = True
        if self._section is not None and dist.is_initialized():
            Watch(self._section, self.global_rank).answer(exception)

    def teardown(self) -> None:
        """Wait for what is under way, and move the stages that are here to the CPU."""
        if self._line is not None and not self._is_broken:
            self._line.close()
        self._line = None
        for metric in self._metrics:
            metric.process_group = None
        model, self._lightning_module = self._lightning_module, None  # Lightning would move what has no memory
        super().teardown()
        self._lightning_module = model
        if model is not None:
            move(model, torch.device("cpu"))
            _update_properties(model, device=torch.device("cpu"))

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What this process answers for; `save_checkpoint` puts all together."""
        assert self._section is not None
        assert self.lightning_module is not None
        return own_state(self.lightning_module, self._section)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write one whole checkpoint, as one process would.

        Args:
            checkpoint: Of this process.
            filepath: The file.
            storage_options: Of the checkpoint plugin.
        """
        assert self._section is not None
        assert self.lightning_module is not None
        if self.replica != 0:
            return
        line = self._section.line
        parts: list[Any] | None = [None] * self.sections if line.is_last else None
        dist.gather_object((line.position, on_cpu(checkpoint)), parts, dst=line.ranks[-1], group=line.group)
        if parts is None:
            return
        in_order = [part for _, part in sorted(parts, key=lambda pair: int(pair[0]))]
        whole = merged(in_order, list(self.lightning_module.state_dict()))
        super().save_checkpoint(whole, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a whole checkpoint, and take of optimizers and schedules what this process goes on with.

        Args:
            checkpoint_path: The file.
            weights_only: As in ``torch.load``.

        Returns:
            The checkpoint.
        """
        assert self._section is not None
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        return part_of(checkpoint, {stage.name for stage in self._section.stages})

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load the stages that are here.

        Args:
            checkpoint: Whole.
            strict: Whether all names have to agree.
        """
        assert self.lightning_module is not None
        state = dict(checkpoint["state_dict"])
        for name, value in self.lightning_module.state_dict().items():
            if name in state and isinstance(value, torch.Tensor) and value.is_meta:
                state[name] = value  # its place, which has no memory to fill
        self.lightning_module.load_state_dict(state, strict=strict)


def _nothing() -> None:
    pass


def _store() -> Store:
    store: Store = dist.distributed_c10d._get_default_store()
    return store


def register() -> None:
    """Make ``Trainer(strategy="local_pipeline")`` known to Lightning."""
    if NAME not in StrategyRegistry.available_strategies():
        description = "Stages that learn at the same time in several processes, to the numbers of one"
        StrategyRegistry.register(NAME, LocalPipeline, description=description)


def is_pipeline(strategy: Any) -> bool:
    """Tell whether a Trainer's option names this strategy.

    Args:
        strategy: A name, a strategy, or its class path as a parsed configuration has it.

    Returns:
        Whether it does.

    Example:
        >>> is_pipeline("local_pipeline"), is_pipeline("ddp")
        (True, False)
    """
    class_path = str(getattr(strategy, "class_path", ""))
    return strategy == NAME or isinstance(strategy, LocalPipeline) or class_path.endswith(LocalPipeline.__name__)
