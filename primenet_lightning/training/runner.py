"""The engine: a batch through the stages of a network, in pure torch.

A network is a row of stages; a stage says what its learners make of its input, and then hands on one detached map. When
to go backward and to exchange is said here, and when a stage steps; the step of a whole window is the caller's, `step`
here or `LocalLearner._step_all`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.nn.layers import autocast_off
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.numbers import WHOLE, Share, on_host
from primenet_lightning.nn.stages import LearnerOutput, Route, Stage
from primenet_lightning.training.exchange import ALONE, Exchange
from primenet_lightning.training.optimizers import CompositeOptimizer
from primenet_lightning.training.random_numbers import KeyedRandom
from primenet_lightning.training.section import Passage, Section

Per = Literal["learner", "stage", "batch"]
"""How often something happens."""

_COARSENESS: dict[str, int] = {"learner": 0, "stage": 1, "batch": 2}


@dataclass(frozen=True)
class Rhythm(metaclass=CheckedArguments):
    """How often gradients are computed, exchanged and applied. All rhythms give the same numbers.

    Attributes:
        backward: ``"stage"``: one backward per stage, whose activations then are freed. ``"learner"``: one per learner,
            before the next one runs. ``"batch"``: one for all, at the memory of the whole network.
        exchange: On several processes, ``"batch"``: all gradients in one message before the step. ``"stage"``: those of
            each stage while the next one runs.
        step: ``"batch"``: all learners step at the end of the batch. ``"stage"``: those of a stage step, and free
            their gradients, right after its backward, as in the paper.

    Raises:
        ValueError: If one is unknown, or is finer than the one before.

    Example:
        >>> Rhythm(backward="batch", exchange="stage")
        Traceback (most recent call last):
        ...
        ValueError: exchange='stage' comes more often than backward='batch', which it follows; use exchange='batch', \
or a finer backward
    """

    backward: Per = "stage"
    exchange: Literal["stage", "batch"] = "batch"
    step: Literal["stage", "batch"] = "batch"

    def __post_init__(self) -> None:
        before = "backward"
        for name in ("backward", "exchange", "step"):
            value, least = getattr(self, name), getattr(self, before)
            known = ("learner", "stage", "batch") if name == "backward" else ("stage", "batch")
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; use {' or '.join(map(repr, known))}")
            if _COARSENESS[value] < _COARSENESS[least]:
                raise ValueError(
                    f"{name}={value!r} comes more often than {before}={least!r}, which it follows; use "
                    f"{name}={least!r}, or a finer {before}"
                )
            before = name


class Record(NamedTuple):
    """What a training batch came to, as numbers.

    Attributes:
        values: Losses over the global batch by learner.
        route: Whose map went on, one index a stage that chooses.
        total: Loss of the learners whose maps went on, the head's included (section 5.1 of the paper).
        answers: The classes that each classifier gave, int64 ``(classifiers, batch)``.
    """

    values: dict[str, float]
    route: Route
    total: float
    answers: Tensor


@dataclass
class _Batch:
    """The batch under way."""

    share: Share
    window: int
    applies: bool
    waiting: list[LearnerOutput] = field(default_factory=list)
    unseen: dict[str, Tensor] = field(default_factory=dict)
    """Losses that are not on the host yet."""
    handed_on: list[str] = field(default_factory=list)
    """Learners whose maps went on, and whose losses the passage does not have yet."""


class _Answers:
    """The classes that each classifier gave, in one tensor that is there from the start.

    Small tensors that each stage left behind would lie between its activations, once freed, and those of the next:
    glibc's heap then splinters, and 32 stages take up to twice the memory of two.
    """

    def __init__(self, classifiers: int, target: Tensor) -> None:
        self._classes = target.new_empty(classifiers, len(target), dtype=torch.int64)
        self._count = 0

    def add(self, outputs: Sequence[LearnerOutput]) -> None:
        """Take the answers of a stage's classifiers."""
        for output in outputs:
            if output.logits is not None:
                torch.argmax(output.logits, 1, out=self._classes[self._count])
                self._count += 1

    @property
    def given(self) -> Tensor:
        """Int64 ``(classifiers, batch)``."""
        return self._classes[: self._count]


class StageRunner(metaclass=CheckedArguments):
    """Runs batches through the stages of a network, in turn.

    Of a stage whose backward is done nothing stays but its detached map and what its classifiers answered: activations
    of one stage are alive at a time, whatever the depth.

    Args:
        network: A row of stages.
        optimizer: Of its learners; None computes gradients and applies none. A `CompositeOptimizer` where a stage steps
            by itself, or gradients are clipped.
        rhythm: How often gradients are computed, exchanged and applied.
        backward: Sends a loss, a scalar, backward; Lightning's scales it first.
        exchange: With the other processes.
        clip: Largest norm of the gradient of one learner; None does not clip.
        section: The stages that are run here; None for all.
        random: Of each stage; None draws all from torch's one sequence.

    Attributes:
        passage: What the batch under way has come to.

    Raises:
        ValueError: If a stage is to step by itself, or gradients are to be clipped, without a `CompositeOptimizer`.

    Example:
        >>> from primenet_lightning.nn.prime.architecture import architecture
        >>> from primenet_lightning.nn.prime.network import PrimeNetwork
        >>> network = PrimeNetwork.build(1, (8, 8), 10, architecture("compact", (8, 8)))
        >>> optimizers = {name: torch.optim.Adam(part, 1e-3) for name, part in network.learners().items()}
        >>> runner = StageRunner(network, CompositeOptimizer(optimizers))
        >>> for _ in range(3):
        ...     record = runner.step(torch.randn(4, 1, 8, 8), torch.tensor([3, 1, 4, 1]))
        >>> list(record.values), len(record.route), record.answers.shape
        (['block0.k3', 'block0.k5', 'block0.k7', 'head'], 1, torch.Size([4, 4]))
    """

    def __init__(
        self,
        network: StagedNetwork,
        optimizer: Optimizer | None = None,
        rhythm: Rhythm | None = None,
        backward: Callable[[Tensor], None] = torch.autograd.backward,
        exchange: Exchange = ALONE,
        clip: float | None = None,
        section: Section | None = None,
        random: KeyedRandom | None = None,
    ) -> None:
        self.network = network
        self.section = Section(network) if section is None else section
        self.random = random
        self.optimizer = optimizer
        self.rhythm = Rhythm() if rhythm is None else rhythm
        self.backward = backward
        self.exchange = exchange
        self.clip_norm = clip
        self._refuse_missing_optimizers()

    def _refuse_missing_optimizers(self) -> None:
        if isinstance(self.optimizer, CompositeOptimizer):
            return
        remedy = f"give optimizer={type(self.optimizer).__name__} as a CompositeOptimizer, by the names of learners"
        if self.rhythm.step == "stage":
            raise ValueError(f"step='stage' steps the learners of one stage by themselves; {remedy}")
        if self.clip_norm is not None:
            raise ValueError(f"clip={self.clip_norm} clips the gradient of each learner by itself; {remedy}")

    def step(self, x: Tensor, target: Tensor, share: Share = WHOLE) -> Record:
        """Learn from one batch, and apply what was learned.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            target: Class indices, ``(batch,)``.
            share: Of this process in the global batch.

        Returns:
            Losses and route, as numbers.

        Raises:
            NonFiniteError: If a loss is NaN or infinite, see `run`.
        """
        record = self.run(x, target, share)
        if self.optimizer is not None:
            self.clip()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return record

    def run(self, x: Tensor, target: Tensor, share: Share = WHOLE, window: int = 1, applies: bool = True) -> Record:
        """Compute the gradients of one batch, stage by stage, and exchange them.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            target: Class indices, ``(batch,)``.
            share: Of this process in the global batch.
            window: Batches whose gradients are averaged; those of this one are divided by it.
            applies: Whether this batch is the last of its window, so that gradients are exchanged.

        Returns:
            Losses and route, as numbers.

        Raises:
            NonFiniteError: If a loss is NaN or infinite; before any parameter changes, or with ``step="stage"`` before
                any of that stage or a later one. On a GPU the stages after it may have seen the batch.
        """
        batch = _Batch(share, window, applies)
        passage = self.passage = Passage(target, share)
        answers = _Answers(len(self.section.classifier_names), target)
        stages = self.section.stages
        x = self.enter(x)
        for place, stage in enumerate(stages):
            with self._random_of(place, x):
                # each learner, then what goes on
                outputs = self._run_learners(stage, x, target, batch)
                batch.unseen |= {output.learner: output.loss.detach() for output in outputs}
                values: list[float] = []
                if not self._can_wait(stage, x):
                    self._look(batch)
                    values = [passage.values[output.learner] for output in outputs]
                choice = stage.choose(x, outputs, values, share)
                x = stage.hand_on(x, outputs, choice)
            # take note
            batch.handed_on.append(outputs[choice].learner)
            answers.add(outputs)
            if stage.chooses:
                passage.route.append(choice)
            # what is due once per stage; without maps and logits, which backward frees one after the other
            outputs = [output._replace(logits=None, feature_map=None) for output in outputs]
            self._reached("stage", outputs, batch, last=stage is stages[-1])
            del outputs  # or this stage's losses live on while the next one runs
        self._look(batch)
        self._reached("batch", [], batch, last=True)
        self.leave(x)
        self.network.learned(self._whole_route(passage.route))
        return Record(passage.values, tuple(passage.route), passage.total, answers.given)

    def _random_of(self, place: int, x: Tensor) -> AbstractContextManager[None]:
        """A stage's own random numbers, where they are keyed."""
        return nullcontext() if self.random is None else self.random.of_stage(self.section.begin + place, x.device)

    def _whole_route(self, route: Sequence[int]) -> Route:
        """A route through all stages; what follows this section is not known here, and not looked at."""
        following = [] if self.section.end is None else self.network.stages[self.section.end :]
        return (*route, *(0 for stage in following if stage.chooses))

    def enter(self, x: Tensor) -> Tensor:
        """Take in what the first stage here sees; for a runner that has only some of the stages.

        Args:
            x: Images, ``(batch, channels, height, width)``.

        Returns:
            The input of the first stage, ``(batch, *in_shape)``.
        """
        return self.section.enter(x, self.passage)

    def leave(self, x: Tensor) -> None:
        """Let go of what the last stage here hands on; for a runner that has only some of the stages.

        Args:
            x: Of the last stage, ``(batch, *out_shape)``.
        """
        self.section.leave(x, self.passage)

    def clip(self) -> None:
        """Clip the gradients of each learner by itself."""
        if self.clip_norm is not None:
            assert isinstance(self.optimizer, CompositeOptimizer)
            for child in self.optimizer.children.values():
                self._clip(child)

    # -- losses as numbers ---------------------------------------------------------------------------------------------

    def _can_wait(self, stage: Stage, x: Tensor) -> bool:
        """Whether a stage's losses may stay on a GPU until the end of the batch: at each look it runs out of work."""
        return x.device.type != "cpu" and self.rhythm.step == "batch" and not stage.chooses_by_losses

    def _look(self, batch: _Batch) -> None:
        """Take all losses to the host that are not there yet.

        Raises:
            NonFiniteError: If one is NaN or infinite.
        """
        if batch.unseen:
            self.passage.values |= on_host(batch.unseen, batch.share)
        self.passage.went_on += [self.passage.values[name] for name in batch.handed_on]
        batch.unseen, batch.handed_on = {}, []

    # -- what is due when ----------------------------------------------------------------------------------------------

    def _run_learners(self, stage: Stage, x: Tensor, target: Tensor, batch: _Batch) -> list[LearnerOutput]:
        """Run the learners of a stage; under ``backward="learner"`` each goes backward before the next one runs."""
        outputs: list[LearnerOutput] = []
        for output in stage.run_learners(x, target, batch.share):
            if self.rhythm.backward == "learner":
                self._backward([output], batch)
                output = output._replace(loss=output.loss.detach())
            outputs.append(output)
            del output
        return outputs

    def _reached(self, level: Per, outputs: Sequence[LearnerOutput], batch: _Batch, last: bool) -> None:
        """Do what is due at this level: backward, exchange, a stage's step; the step of the window is the caller's."""
        if self.rhythm.backward == level:
            self._backward([*batch.waiting, *outputs], batch)
        elif self.rhythm.backward == "batch":
            batch.waiting += outputs
        if not batch.applies:
            return
        if self.rhythm.exchange == level:
            names = self.section.loss_names if level == "batch" else [output.learner for output in outputs]
            self.exchange.start(self.network, names, batch.share, last)
        if self.rhythm.step == level:
            self.exchange.finish()
            if level == "stage":
                self._step_now(outputs)

    def _backward(self, outputs: Sequence[LearnerOutput], batch: _Batch) -> None:
        """Send losses of disjoint graphs backward together: each gets the gradient it would get alone."""
        losses = [output.loss for output in outputs if output.loss.requires_grad]  # a frozen learner's has none
        if not losses:
            return
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        factor = batch.share.weight / batch.window
        # autocast would round products of the backward pass, too, whose forward pass was kept from it
        with autocast_off(total):
            self.backward(total if factor == 1 else total * factor)

    def _step_now(self, outputs: Sequence[LearnerOutput]) -> None:
        """Step the learners of a stage, and free their gradients."""
        assert isinstance(self.optimizer, CompositeOptimizer)
        for output in outputs:
            child = self.optimizer.children.get(output.learner)
            if child is not None:
                self._clip(child)
                child.step()
                child.zero_grad()

    def _clip(self, optimizer: Optimizer) -> None:
        if self.clip_norm is not None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
