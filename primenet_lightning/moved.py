"""The dotted paths of version 0.1, and where their names are now.

Programs, checkpoints and pickles of version 0.1 name modules that have moved. `MOVED` is the one table of them: an old
module's names are looked up in the modules that took its place. A name that is another one now is in `RENAMED`; one
that is gone is in `REMOVED`, with the sentence that says what to use instead. Whoever moves a module, or a name out of
one, adds a line here.

The package puts `Signposts` among Python's finders. An old module that is no more is made of the table alone, and says
so once; one that is still there is loaded as it is, and afterwards knows the names that have left it, too.
"""

import importlib
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

PACKAGE = "primenet_lightning"

MOVED: dict[str, tuple[str, ...]] = {
    # the network
    "blocks": ("nn.prime.block", "nn.prime.capsules", "nn.prime.projection", "nn.targets", "nn.layers", "nn.fast"),
    "capsules": ("nn.prime.capsules", "nn.fast"),
    "end_to_end": ("nn.prime.twin",),
    "heads": ("nn.classifiers", "nn.layers"),
    "layout": ("nn.layout", "nn.layers", "nn.fast"),
    "losses": ("nn.losses", "nn.similarity", "nn.layers"),
    "network": (
        "nn.prime.network",
        "nn.network",
        "nn.names",
        "nn.stages",
        "nn.prime.building",
        "nn.prime.routing_checks",
    ),
    "presets": ("nn.prime.architecture",),
    "routers": ("nn.prime.routers", "nn.prime.router", "nn.prime.lasting", "nn.prime.mixing"),
    "routing": ("nn.prime.routes", "nn.numbers", "nn.stages"),
    # its training
    "checkpoint_io": ("training.checkpoints",),
    "checks": ("training.refusals",),
    "classifier": ("models.end_to_end",),
    "distributed": ("training.exchange", "training.batch_share", "training.gradient_sum"),
    "linear_probe": ("models.linear_probe",),
    "metrics": ("training.counting",),
    "module": ("models.prime", "training.step_output", "training.counting"),
    "optimizers": ("training.optimizers", "training.adam"),
    "options": ("arguments",),
    "predictor": ("training.evaluator",),
    "random_state": ("training.resuming",),
    "schedules": ("training.schedules",),
    # what is learned of it
    "cost": ("analysis.cost",),
    "features": ("analysis.features", "datamodules.features"),
    "memory": ("analysis.memory",),
    "prediction": ("analysis.prediction",),
    "probe": ("analysis.probe", "analysis.features", "models.linear_probe", "training.fitting"),
    # runs and commands
    "cli": (
        "commands.main",
        "commands.fit",
        "commands.resumption",
        "commands.loggers",
        "commands.attached",
        "commands.wandb_process",
    ),
    "dashboard": ("commands.dashboard",),
    "probe_command": ("commands.probe",),
    "report": ("runs.report", "runs.page"),
    "runs": ("runs.folder", "files"),
    "summary": ("runs.summary", "paper"),
    "datamodules.files": ("datamodules.image_files", "datamodules.pictures"),
    # callbacks: what they compute, draw and log
    "callbacks.capsule_views": ("analysis.views",),
    "callbacks.checkpoints": ("training.checkpoints",),
    "callbacks.confusion": ("analysis.wrong_answers", "figures.confusion", "callbacks.publishing"),
    "callbacks.feature_maps": ("figures.feature_maps",),
    "callbacks.figures": ("files", "figures.style", "figures.curves", "callbacks.publishing"),
    "callbacks.interruption": ("training.stopping",),
    "callbacks.loss_curves": ("training.loss_log",),
    "callbacks.routing": ("analysis.routing", "figures.routing"),
    "callbacks.sample": ("analysis.sample",),
    "callbacks.tsne": ("analysis.embedding", "figures.embedding", "analysis.features"),
    # the paper, measured
    "baselines.classifier": ("models.end_to_end",),
    "reproduction.carrying_out": (
        "reproduction._carrying_out",
        "reproduction._plan",
        "reproduction._trained",
        "reproduction._workplace",
    ),
    "reproduction.claims": ("paper",),
    "reproduction.command": ("commands.reproduce",),
    "reproduction.evaluation": ("reproduction._evaluation", "analysis.paper_figures"),
    "reproduction.measurements": (
        "reproduction.report._measurements",
        "reproduction.report._finding",
        "reproduction.report._wording",
    ),
    "reproduction.pages": ("reproduction.report.pages", "reproduction.report._for_programs"),
    "reproduction.pictures": ("reproduction.report._pictures", "figures.paper_figures"),
    "reproduction.plan": ("reproduction._plan",),
    "reproduction.remarks": ("reproduction.report._remarks",),
    "reproduction.results": ("reproduction._results", "reproduction._workplace"),
    "reproduction.tables": ("reproduction.report._tables", "reproduction.report._wording"),
    "reproduction.training": ("reproduction._trained", "runs.summary", "training.fitting"),
    "reproduction.verdicts": (
        "reproduction.report.verdicts",
        "reproduction.report._rule",
        "reproduction.report._rules_tables",
        "reproduction.report._rules_figures",
        "reproduction.report._rules_sections",
        "reproduction.report._remarks",
        "reproduction._results",
    ),
}
"""The modules that have the names of a module of version 0.1, in the order in which they are asked."""

RENAMED: dict[str, str] = {
    "baselines.classifier.ImageClassifier": "models.end_to_end.EndToEnd",
    "cli.dashboard": "commands.dashboard.main",
    "cli.predict": "commands.predict.main",
    "cli.probe": "commands.probe.main",
    "cli.report": "commands.report.main",
    "cli.reproduce": "commands.reproduce.reproduce",
    "cli.run_lightning": "commands.fit.main",
    "reproduction.carrying_out.KINDS": "reproduction._workplace.DATA_MODULES",
    "reproduction.command.at_most": "commands.reproduce._at_most",
    "reproduction.command.carry_out_all": "commands.reproduce._carry_out_all",
    "reproduction.command.parse": "commands.reproduce._parse",
    "reproduction.command.settings_of": "commands.reproduce._settings_of",
    "reproduction.command.work_of": "commands.reproduce._work_of",
    "reproduction.evaluation.Verdicts": "reproduction._evaluation.Scores",
    "reproduction.evaluation.all_verdicts": "reproduction._evaluation.all_scores",
    "reproduction.pictures.Array": "figures.paper_figures.Arrays",
}
"""What has another name now, by its path of then."""

IN_TEMPLATE = "read primenet_lightning/reproduction/report/templates/tables.j2"

REMOVED: dict[str, str] = {
    "blocks.OnLoss": "a stage hands out its losses one by one, see `run_learners` in primenet_lightning.nn.stages",
    "callbacks.capsule_views.names_of_classes": "use named_classes of primenet_lightning.analysis.views",
    "callbacks.confusion.to_pixels": "use as_pixels of primenet_lightning.analysis.views",
    "classifier.CrossEntropyClassifier": "use EndToEnd of primenet_lightning.models.end_to_end",
    "cli.COMMANDS": "read COMMANDS of primenet_lightning.commands.main, which has import paths",
    "cli.process_rank": "use rank_zero_only.rank of lightning.pytorch.utilities",
    "datamodules.downloaded.file_md5": "use calculate_md5 of torchvision.datasets.utils",
    "distributed.Average": "use Share of primenet_lightning.nn.numbers, whose `mean` it was",
    "distributed.average_batch_norm": "use `settle` of a Replicas that has shared out a batch (training.exchange)",
    "network.Stage": "use LearnerOutput of primenet_lightning.nn.stages; a Stage is now what gives it",
    "network.capsules_of": "use Plan of primenet_lightning.nn.prime.building, whose `capsules` does it",
    "network.next_shape": "use `out_shape` of the block, which pools by itself",
    "network.stack_blocks": "use Plan of primenet_lightning.nn.prime.building, whose `blocks` does it",
    "predictor.ImagePredictor": "use Evaluator of primenet_lightning.training.evaluator",
    "routing.refuse_non_finite": "use on_host of primenet_lightning.nn.numbers, which refuses them",
    "report.STYLE": "read primenet_lightning/runs/templates/page.css",
    "report.escape": "use escape of markupsafe",
    "reproduction.carrying_out.paper_size_cost": "use count_inference of primenet_lightning.analysis.cost",
    "reproduction.command.Estimate": "use a task of rich.progress, whose TimeRemainingColumn does it",
    "reproduction.command.left_in_words": "use TimeRemainingColumn of rich.progress",
    "reproduction.pages.WORDS": "read primenet_lightning/reproduction/report/templates/report.css",
    "reproduction.pages.markdown_table": "read primenet_lightning/reproduction/report/templates/report.md.j2",
    "reproduction.tables.ABLATIONS": IN_TEMPLATE,
    "reproduction.tables.NOT_RUN": IN_TEMPLATE,
    "reproduction.tables.PHASE_2": IN_TEMPLATE,
    "reproduction.tables.PROBE_COLUMNS": IN_TEMPLATE,
    "reproduction.tables.ROUTINGS": IN_TEMPLATE,
    "reproduction.tables.TABLE_2": IN_TEMPLATE,
    "reproduction.tables.UNDERFIT": IN_TEMPLATE,
    "reproduction.tables.ablation_table": IN_TEMPLATE,
    "reproduction.tables.cost_table": IN_TEMPLATE,
    "reproduction.tables.error_table": IN_TEMPLATE,
    "reproduction.tables.exits_table": IN_TEMPLATE,
    "reproduction.tables.inference_table": IN_TEMPLATE,
    "reproduction.tables.probe_table": IN_TEMPLATE,
    "reproduction.tables.settings_table": IN_TEMPLATE,
    "reproduction.tables.shares_table": IN_TEMPLATE,
    "reproduction.tables.splits_table": IN_TEMPLATE,
    "reproduction.tables.verdict_table": IN_TEMPLATE,
    "reproduction.training.device_of": "use `device` of a Fabric of lightning.fabric with that accelerator",
    "reproduction.training.seed_all": "use seed_everything of lightning.pytorch",
    "reproduction.verdicts.WITHOUT": "read REQUIRED and OPTIONAL in reproduction/report/_rules_sections.py",
}
"""What to use instead of a name of version 0.1 that there is no more, by its path of then."""


class Signposts(MetaPathFinder):
    """Finds the modules of version 0.1.

    Example:
        >>> import warnings
        >>> from primenet_lightning.nn.classifiers import ClassifierHead
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     import primenet_lightning.heads
        >>> primenet_lightning.heads.ClassifierHead is ClassifierHead
        True
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that is in the table; nothing for any other.

        Args:
            fullname: The dotted path.
            path: Where the package that it is of looks for its modules.
            target: What is loaded anew, if anything.

        Returns:
            The module as it is, with the names that have left it; of one that is no more, all its names.
        """
        if not _is_old(fullname):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None:
            return ModuleSpec(fullname, _Gone())
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _StillThere(fullname, spec.loader.path)
        return spec


def moved(old: str) -> tuple[str, ...]:
    """Tell where the names of a module of version 0.1 are.

    Args:
        old: Its dotted path.

    Returns:
        Dotted paths; none if the module is as it was.

    Example:
        >>> moved("primenet_lightning.cost"), moved("primenet_lightning.callbacks")
        (('primenet_lightning.analysis.cost',), ())
    """
    package, _, name = old.partition(".")
    if package != PACKAGE:
        return ()
    return tuple(f"{PACKAGE}.{home}" for home in MOVED.get(name, ()))


def _is_old(fullname: str) -> bool:
    """Tell whether a module has names in one of the tables."""
    package, _, name = fullname.partition(".")
    if package != PACKAGE:
        return False
    return name in MOVED or any(path.rpartition(".")[0] == name for path in REMOVED)


class _Gone(Loader):
    """Makes a module that is no more: it has no line of its own, and the names of those that took its place."""

    def exec_module(self, module: ModuleType) -> None:
        warnings.warn(_notice(module.__name__), DeprecationWarning, stacklevel=2)
        _forward(module)
        module.__dir__ = lambda: _public(module.__name__)  # type: ignore[method-assign]

    def get_code(self, fullname: str) -> CodeType:
        """``python -m`` of the old path runs the module that took its place."""
        main = moved(fullname)[0]
        lines = [
            "import runpy, warnings",
            f"warnings.warn({_notice(fullname)!r}, DeprecationWarning)",
            f"runpy.run_module({main!r}, run_name='__main__', alter_sys=True)",
        ]
        return compile("\n".join(lines), f"<{fullname}>", "exec")


class _StillThere(SourceFileLoader):
    """Loads a module as it is, and adds the names that have left it."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _forward(module)


def _forward(module: ModuleType) -> None:
    """Let a module look up, on first use, what it does not have itself (PEP 562)."""
    old = module.__name__
    gone = isinstance(module.__loader__, _Gone)

    def look_up(name: str) -> Any:
        if gone and name == "__all__":  # of `from ... import *`
            return _public(old)
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        value, path = _find(old, name)
        if not gone:
            warnings.warn(f"{old}.{name} is now {path}", DeprecationWarning, stacklevel=2)
        setattr(module, name, value)  # the next use finds it without coming here
        return value

    module.__getattr__ = look_up  # type: ignore[method-assign]


def _find(old: str, name: str) -> tuple[Any, str]:
    """The value of an old module's name, and its path of now."""
    old_path = f"{old}.{name}".removeprefix(f"{PACKAGE}.")

    # what is gone
    sentence = REMOVED.get(old_path)
    if sentence is not None:
        # no AttributeError: of that `from ... import` would make a sentence of its own
        raise ImportError(f"{old}.{name} is gone: {sentence}", name=name, path=old)

    # what has another name
    if old_path in RENAMED:
        path = f"{PACKAGE}.{RENAMED[old_path]}"
        home, _, new_name = path.rpartition(".")
        return getattr(importlib.import_module(home), new_name), path

    # what is somewhere else
    for home in moved(old):
        module = importlib.import_module(home)
        if hasattr(module, name):
            return getattr(module, name), f"{home}.{name}"
    raise AttributeError(f"module {old!r} has no attribute {name!r}")


def _public(old: str) -> list[str]:
    """The names without underscore of the modules that took an old one's place."""
    names: set[str] = set()
    for home in moved(old):
        names.update(name for name in dir(importlib.import_module(home)) if not name.startswith("_"))
    return sorted(names)


def _notice(old: str) -> str:
    return f"{old} is now {' and '.join(moved(old))}; the old path will go in a later version"
