"""What the documentation says is run: docstrings, and blocks of all pages in order; other commands are parsed."""

import contextlib
import doctest
import functools
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import shlex
import shutil
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import click
import jsonargparse
import pytest
import wandb.cli.cli
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from torchvision.datasets import FashionMNIST

import primenet_lightning
from primenet_lightning import baselines, callbacks, datamodules
from primenet_lightning.commands import fit
from primenet_lightning.commands import main as cli
from primenet_lightning.moved import MOVED

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
}
MODULES = sorted(module.name for module in pkgutil.walk_packages(primenet_lightning.__path__, "primenet_lightning."))
FENCE = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    title: str | None
    code: str


def blocks(page, *languages):
    """The blocks of a page in some languages; ``title="name.py"`` names the file that the reader is to write it to."""
    of_the_page = []
    for indent, language, options, code in FENCE.findall(PAGES[page]):
        if language in languages:
            title = re.search(r'title="([^"]+)"', options)
            of_the_page.append(Block(language, title and title[1], re.sub(f"^{indent}", "", code, flags=re.MULTILINE)))
    return of_the_page


def pages_with(language):
    return [page for page in PAGES if blocks(page, language)]


# -- docstrings --------------------------------------------------------------------------------------------------------


def test_modules_of_all_three_packages_are_found():
    assert {
        "primenet_lightning.nn.prime.block",
        "primenet_lightning.datamodules.base",
        "primenet_lightning.callbacks.publishing",
    } <= {*MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


# -- Python on pages ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """What ``primenet fit --run runs/first`` leaves, but for two batches of training and the pictures."""
    run = tmp_path_factory.mktemp("finished") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        few = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]
        assert cli.main(["fit", f"--run={run}", "--figures=false", "--trainer.log_every_n_steps=1", *few]) == 0
    return run


@pytest.fixture
def workplace(tmp_path, monkeypatch, finished_run):
    """A folder as a reader may have it: the tutorial's run, and no data; FashionMNIST is downloaded from here."""
    shutil.copytree(finished_run, tmp_path / "runs" / "first")
    monkeypatch.setattr(FashionMNIST, "download", write_fashion_mnist)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRIMENET_DATA", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    wandb.teardown()  # it would go on with the environment of the test that set it up
    return tmp_path


def write_fashion_mnist(dataset):
    """In place of its download: 200 and 40 images in the official layout."""
    raw = Path(dataset.raw_folder)
    raw.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", 200), ("t10k", 40)):
        pixels = bytes((37 * i) % 256 for i in range(count * 28 * 28))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28) + pixels)
        labels = bytes(i % 10 for i in range(count))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)


def test_a_page_finds_no_data_that_it_has_not_fetched(workplace):
    with pytest.raises(RuntimeError, match="download=True"):
        FashionMNIST("data", train=True)
    assert len(FashionMNIST("data", train=True, download=True)) == 200


@pytest.fixture
def short_trainings(monkeypatch, undrawn):
    """Every Trainer takes two batches of one epoch, or of two where it would take 20 or more, and draws no curves."""
    build, steps = Trainer.__init__, []

    @functools.wraps(build)
    def shortened(self, *args, **options):
        options["max_epochs"] = 1 + (options.get("max_epochs", 1) >= 20)
        few = dict(limit_train_batches=2, limit_val_batches=1, limit_test_batches=1, log_every_n_steps=1)
        quiet = dict(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
        build(self, *args, **({"logger": False} | options | few | quiet))

    fit = Trainer.fit

    def noted(self, *args, **kwargs):
        before = self.global_step
        fit(self, *args, **kwargs)
        if not any(isinstance(callback, LearningRateFinder) for callback in self.callbacks):  # it takes its steps back
            steps.append(self.global_step - before)

    monkeypatch.setattr(Trainer, "__init__", shortened)
    monkeypatch.setattr(Trainer, "fit", noted)
    return steps


@pytest.fixture
def written_files(workplace):
    """Writes the blocks of a page that have a file's name; the modules are forgotten afterwards."""
    names = []

    def write(page):
        for _, title, code in blocks(page, "python"):
            if title is not None:
                (workplace / title).write_text(code, encoding="utf-8")
                names.append(Path(title).stem)
        importlib.invalidate_caches()

    yield write
    for name in names:
        sys.modules.pop(name, None)


SHORT = {
    "fit": ["--figures=false", "--trainer.enable_progress_bar=false"],
    "predict": [],
    "validate": [],
}
"""The commands that are run, and what makes them short."""

RUN_ON = [f"docs/{page}.md" for page in ("tutorial", "how-to/backbone", "how-to/data", "how-to/run-folder")]
"""Where; each takes two seconds. On the other pages they are parsed."""


def can_be_run(args):
    """Whether a command works after the tutorial: without other data, devices, or runs that the page made up."""
    words = " ".join(args or ["--help"])
    elsewhere = re.search(r"\.\.\.|--help|--config|--resume|--trainer\.(devices|accelerator)", words)
    return args is not None and args[0] in SHORT and not elsewhere


def run_command(args):
    """Run ``primenet``; a run folder that an earlier block, or the fixture, has made is made anew."""
    if args[0] == "fit" and "--run" in args:
        shutil.rmtree(args[args.index("--run") + 1], ignore_errors=True)
    assert cli.main([*args, *SHORT[args[0]]]) == 0, shlex.join(args)


@pytest.mark.parametrize("page", sorted({*pages_with("python"), *RUN_ON}))
def test_blocks_of_a_page_run_in_order(page, written_files, short_trainings):
    """As they stand, one after the other, as a reader would paste them; files are imported; see also `can_be_run`."""
    written_files(page)
    namespace: dict = {"__name__": "documentation"}
    trains = 0
    for number, (language, title, code) in enumerate(blocks(page, "python", *(["bash"] if page in RUN_ON else []))):
        if language == "bash":
            for args in filter(can_be_run, map(primenet_arguments, commands(code))):
                run_command(args)
                trains += args[0] == "fit"
        elif title is not None:
            importlib.import_module(Path(title).stem)
        else:
            exec(compile(code, f"{page}, block {number}", "exec"), namespace)
            trains += code.count("trainer.fit(")
    assert len(short_trainings) >= trains
    assert all(steps > 0 for steps in short_trainings)


def test_the_commands_of_the_tutorial_and_the_backbones_are_run():
    run = {page: [*filter(can_be_run, map(primenet_arguments, commands_of(page)))] for page in RUN_ON}
    assert [args[0] for args in run["docs/tutorial.md"]] == ["fit", "validate", "predict", "fit", "fit", "fit", "fit"]
    assert ["--model.width", "24"] in [args[3:5] for args in run["docs/how-to/backbone.md"]]
    assert sum(map(len, run.values())) >= 12


def test_readme_and_pages_have_their_examples():
    shown = {
        "README.md": ("Trainer", "from_datasets", "download=True"),
        "docs/how-to/backbone.md": ("configure_capsules", "StageRunner", "local_targets"),
        "docs/how-to/data.md": ("load_arrays", "from_datasets"),
        "docs/how-to/reproduce.md": ("fit_probe", "OneScale"),
    }
    for page, words in shown.items():
        code = "".join(block.code for block in blocks(page, "python"))
        assert [word for word in words if word not in code] == [], page
    assert len(PAGES["README.md"].splitlines()) <= 120
    assert {"docs/tutorial.md", "docs/method.md", "docs/deep.md"} <= {*pages_with("python")}
    assert len([page for page in pages_with("python") if page.startswith("docs/how-to/")]) >= 7


# -- commands on pages -------------------------------------------------------------------------------------------------


class Parsed(Exception):
    """The command line was understood; the command is not to be carried out."""


@pytest.fixture(scope="module")
def parse_lightning():
    """Parses the arguments of fit, validate and test, by one parser, and the same ones once: it all takes a while."""
    parsers = []

    class Caught(fit.PrimeNetCLI):
        def parse_arguments(self, parser, args):
            parsers.append(parser)
            raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "PrimeNetCLI", Caught)
        with pytest.raises(Parsed):
            fit.main(["fit"])
    # as PrimeNetCLI.parse_arguments does, without what looks at folders of runs
    return functools.cache(lambda *args: parsers[0].parse_args(fit.with_full_names(fit.classes_first(args))))


@pytest.fixture
def understand(parse_lightning, monkeypatch):
    """Lets ``primenet`` parse its arguments and do nothing; it exits where it does not understand them."""
    parse = jsonargparse.ArgumentParser.parse_args

    def and_stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    def understood(args):
        if args[0] in fit.PrimeNetCLI.subcommands():
            return parse_lightning(*args)
        with monkeypatch.context() as patch:
            patch.setattr(jsonargparse.ArgumentParser, "parse_args", and_stop)
            with pytest.raises(Parsed):
                cli.main(args)

    return understood


def commands(code):
    """The lines of a bash block, as words, continued lines joined and comments left out."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def commands_of(page):
    """Those of all its bash blocks."""
    return [words for block in blocks(page, "bash") for words in commands(block.code)]


def primenet_arguments(words):
    """What ``primenet`` is given in a line of a shell, also when SLURM or torchrun starts it; None for others."""
    while words and re.fullmatch(r"\w+=\S*|srun", words[0]):  # variables before the command
        words = words[1:]
    for start in ("primenet", "primenet_lightning.commands.main"):
        if words[:1] == [start] or (words[:1] == ["torchrun"] and start in words):
            return words[words.index(start) + 1 :]
    return None


def understood_by_wandb(args):
    """Parse by W&B's own command; the runs of an example need not exist."""
    command = wandb.cli.cli.cli.commands[args[0]]
    with contextlib.suppress(click.BadParameter):
        command.make_context(args[0], list(args[1:]))


def test_a_wrong_option_of_wandb_is_noticed():
    understood_by_wandb(["sync", "runs/mine/wandb/offline-run-*"])
    with pytest.raises(click.NoSuchOption):
        understood_by_wandb(["sync", "--append", "runs/mine"])


def test_how_commands_are_found():
    assert primenet_arguments(shlex.split("WANDB_MODE=offline primenet fit --run a")) == ["fit", "--run", "a"]
    assert primenet_arguments(shlex.split("torchrun --nnodes 2 -m -- primenet_lightning.commands.main fit")) == ["fit"]
    assert primenet_arguments(["pip", "install", "primenet"]) is None


@pytest.mark.parametrize("page", pages_with("bash"))
def test_commands_of_a_page_are_understood(page, understand, written_files, monkeypatch, capsys):
    written_files(page)
    monkeypatch.chdir(ROOT)  # where configs/ is
    for words in commands_of(page):
        if words[0] == "wandb":
            understood_by_wandb(words[1:])
        args = primenet_arguments(words)
        if page in RUN_ON and can_be_run(args):
            continue
        if args is None or "--help" in args:
            assert args is None or args[0] in cli.COMMANDS
            continue
        try:
            understand(args)
        except SystemExit:
            pytest.fail(f"{page}: {shlex.join(words)}: {capsys.readouterr().err}")


def test_a_wrong_option_is_noticed(understand):
    for wrong in (
        ["fit", "--model.kernels", "3"],
        ["probe", "runs/first", "--epoch_s", "3"],
        ["predict", "--modle", "x", "a.png"],
    ):
        with pytest.raises((SystemExit, pytest.fail.Exception)):
            understand(wrong)


def test_files_and_targets_that_pages_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page, text in PAGES.items():
        for name in re.findall(r"(?:configs|benchmarks|examples)/[\w/]+\.\w+", text):
            assert (ROOT / name).exists(), f"{page}: {name}"
        for words in commands_of(page):
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"{page}: {shlex.join(words)}"


def test_links_between_pages_lead_somewhere():
    for page, text in PAGES.items():
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)[^)]*\)", text):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


def test_the_changelog_tells_where_the_modules_of_version_0_1_are():
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ((?:`[\w.]+`(?:, )?)+) \|$", PAGES["CHANGELOG.md"], flags=re.MULTILINE))
    for old, homes in MOVED.items():
        if not old.startswith("reproduction."):
            assert rows[old] == ", ".join(f"`{home}`" for home in homes), f"CHANGELOG.md: {old}"


# -- the site ----------------------------------------------------------------------------------------------------------


def test_every_public_name_has_its_place_in_the_reference():
    reference = "".join(text for page, text in PAGES.items() if page.startswith("docs/api/"))
    described = []
    for name in re.findall(r"^::: (\S+)$", reference, flags=re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        described.append(getattr(importlib.import_module(module), attribute))
    for room in (primenet_lightning, callbacks, datamodules, baselines):
        for name in room.__all__:
            thing = getattr(room, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert thing in described, f"write a line `::: {room.__name__}.{name}` into a page of docs/api"


def tool(name):
    """A file of docs/tools, which is no package."""
    described = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def test_equations_and_examples_of_docstrings_become_markdown():
    pytest.importorskip("griffe")
    text = (
        "First.\n\n.. math:: a\n          + b\n\nThen :math:`c`.\n\n"
        "    .. math::\n\n        d\n\n    More.\n\nExample:\n    >>> 1"
    )
    assert tool("docstrings").to_markdown(text) == (
        "First.\n\n$$\na + b\n$$\n\nThen $c$.\n\n    $$\n    d\n    $$\n\n    More.\n\nExamples:\n    >>> 1"
    )


def test_a_method_that_overrides_leads_to_the_arguments():
    griffe = pytest.importorskip("griffe")
    described = """    def f(self, x):\n        'Do.\\n\\nArgs:\\n    x: It.'\n"""
    code = f"class Base:\n{described}class Derived(Base):\n    def f(self, x):\n        'Do otherwise.'\n"
    extensions = griffe.Extensions(tool("docstrings").Markdown())
    with griffe.temporary_visited_package("made_up", {"__init__.py": code}, extensions=extensions) as package:
        link = "Arguments and shapes: [`Base.f`][made_up.Base.f]."
        assert package["Derived.f"].docstring.value == f"Do otherwise.\n\n{link}"
        assert link not in package["Base.f"].docstring.value


def test_equations_become_mathml_and_commands_print_their_help():
    pytest.importorskip("latex2mathml")
    hooks = tool("hooks")
    mathml = hooks.EQUATION.sub(hooks._equation, r'<p>so <span class="arithmatex">\(a &lt; b\)</span></p>')
    assert re.sub(r"<(/?)(\w+)[^>]*>", r"<\1\2>", mathml) == (
        "<p>so <math><mrow><mi>a</mi><mo>&#x0003C;</mo><mi>b</mi></mrow></math></p>"
    )
    page = hooks.on_page_markdown("x\n    <!-- help: predict -->")
    assert page.startswith("x\n    ```text\n    usage: primenet predict")
    assert page.endswith("\n    ```")


def test_the_run_of_the_examples_is_a_run(finished_run):
    assert json.loads((finished_run / "summary.json").read_text())["dataset"] == "digits"
