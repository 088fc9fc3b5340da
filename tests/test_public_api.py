"""What the docstrings of the public API must say, and that they say it of what is there.

Public is every function, class, method and property without a leading underscore, in every module without one. The
rules are those of `faults_of`; whether the examples run is the business of test_documentation.py.
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from docstring_parser import Docstring, ParseError
from docstring_parser.google import parse

import primenet_lightning

Function = Callable[..., Any]

MODULES = [
    "primenet_lightning",
    *sorted(
        module.name
        for module in pkgutil.walk_packages(primenet_lightning.__path__, "primenet_lightning.")
        if not any(part.startswith("_") for part in module.name.split("."))
    ),
]

WITHOUT_EXAMPLE = {
    "LearnerOutput": "what a Stage gives; the example is that of Stage",
    "StagedNetwork": "abstract; the examples are those of WholeNetwork and PrimeNetwork",
    "BlockOutput": "what a PrimeBlock returns; the example is that of PrimeBlock",
    "Cost": "what count_cost returns; the example is that of count_cost",
    "NonFiniteError": "an error; no user makes one",
    "DownloadedDataModule": "abstract; MNISTDataModule shows how to derive from it",
    "ImageFileError": "an error; no user makes one",
    "keep_freed_memory": "it changes the process that the example would run in",
    "LoadedImages": "what ImageFiles returns; the example is that of ImageFiles",
}
"""Exported names that have no example of their own, and why."""

_SIZE = r"(?:\.\.\.|[\w']+(?: [-+*/] [\w']+)*)"
SHAPE = re.compile(
    rf"``\([^()`]*,[^()`]*\)``|\({_SIZE},(?: {_SIZE},)*(?: {_SIZE})?\)|\bscalars?\b|\b(?:any|same|equal) shapes?\b",
    re.I,
)
"""A shape: ``(batch, classes)`` or ``(batch,)``, that it is a scalar, that it may be any, or that of another tensor."""


class Member(NamedTuple):
    """A public thing: its full name, what it is, and the class that it is of."""

    name: str
    thing: Any
    owner: type | None = None

    @property
    def function(self) -> Function | None:
        """The plain function under decorators; None for classes."""
        thing = self.thing
        for kind, inside in ((property, "fget"), (functools.cached_property, "func"), (classmethod, "__func__")):
            thing = getattr(thing, inside) if isinstance(thing, kind) else thing
        thing = thing if inspect.isclass(thing) else inspect.unwrap(thing)  # static methods unwrap, too
        return thing if inspect.isfunction(thing) else None

    @property
    def text(self) -> str:
        """Its own docstring, neither inherited nor made by `dataclass` or `NamedTuple`."""
        text = inspect.cleandoc((self.function or self.thing).__doc__ or "")
        return "" if text.startswith(f"{self.name.rpartition('.')[2]}(") else text


def members_of(module: ModuleType) -> Iterator[Member]:
    """The public functions and classes that a module defines, and the classes' public methods and properties."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__ or not callable(thing):
            continue
        member = Member(f"{module.__name__}.{name}", thing)
        if inspect.isclass(thing):
            yield member
            inside = [
                Member(f"{member.name}.{key}", value, thing) for key, value in vars(thing).items() if key[0] != "_"
            ]
            described = (property, functools.cached_property, classmethod, staticmethod)
            for m in inside:
                # torch sets its own `step`, with hooks, on a class of optimizers when one is first made
                is_own = m.function is not None and m.function.__module__ == module.__name__
                if is_own and (isinstance(m.thing, described) or callable(m.thing)):
                    yield m
        elif member.function:
            yield member


def faults_of(member: Member) -> list[str]:
    """Tell what is missing in a docstring, and what is in it that is not there.

    There has to be one. It describes each argument, each error raised in the thing's own lines, and what is given
    back; each tensor with its shape; a class describes its constructor. What it describes has to exist. Less will do
    in two cases: a method that overrides one of the same arguments may say only what it does differently, in one line
    (see `inherits`); and where there are no arguments, one line, as for an attribute, says what is given back.
    """
    if not member.text:
        return [f"{member.name}: no docstring"]
    try:
        docstring = parse(member.text)
    except ParseError as error:
        return [f"{member.name}: cannot be read: {error}"]
    function = member.function
    if function is None:
        if getattr(member.thing, "_is_protocol", False):
            return []  # its constructor is typing's
        own = [vars(member.thing).get(name) for name in ("__new__", "__init__", "__post_init__")]
        builders = [builder for builder in own if inspect.isfunction(builder)]
        faults = [*_of_constructor(member.thing, docstring), *_of_errors(builders, docstring)]
    else:
        faults = [*_of_errors([function], docstring)]
        if not inherits(member):
            faults += _compare(_arguments(function), _documented(docstring, "param"))
            faults += _of_result(member, function, docstring)
    return [f"{member.name}: {fault}" for fault in faults]


def inherits(member: Member) -> bool:
    """Tell whether a method is described by the one that it overrides.

    It is if its docstring is one line, and each of its arguments is one, by name, of the nearest method of that name
    among its bases. So a callback's ``on_train_end(trainer, pl_module)`` is; a module's ``forward(x)`` is not, since
    torch's has ``*input``, unless a base of ours has a ``forward`` of the same arguments.
    """
    if member.owner is None or member.function is None or "\n" in member.text:
        return False
    name = member.name.rpartition(".")[2]
    overridden = [
        Member(name, vars(base)[name], base).function for base in member.owner.__mro__[1:] if name in vars(base)
    ]
    if not overridden or overridden[0] is None:
        return False
    return _arguments(member.function).keys() <= _arguments(overridden[0]).keys()


def _documented(docstring: Docstring, kind: str) -> dict[str, str]:
    """Text by name of the entries of Args (``param``) or Attributes (``attribute``); without the stars of ``*args``."""
    entries = [entry for entry in docstring.params if entry.args[0] == kind]
    return {entry.arg_name.lstrip("*"): entry.description or "" for entry in entries}


def _arguments(function: Function) -> dict[str, str]:
    """Annotation by name, as text; without the first argument of methods."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: inspect.formatannotation(p.annotation) for p in parameters if p.name not in ("self", "cls", "_cls")}


def _compare(there: dict[str, str], documented: dict[str, str]) -> Iterator[str]:
    """Compare arguments, by annotation, with what is said of them."""
    for name, annotation in there.items():
        if not documented.get(name):
            yield f"argument {name} is not documented"
        elif re.search(r"\bTensor\b", annotation) and not SHAPE.search(documented[name]):
            yield f"argument {name} is a tensor without a shape"
    for name in documented.keys() - there.keys():
        yield f"argument {name} is documented, but is not there"


def _of_constructor(thing: type, docstring: Docstring) -> Iterator[str]:
    """Compare Args with a class's own constructor; data classes and named tuples may have Attributes instead."""
    arguments, attributes = _documented(docstring, "param"), _documented(docstring, "attribute")
    fields = getattr(thing, "_fields", ())  # of a named tuple
    if dataclasses.is_dataclass(thing):
        fields = [field.name for field in dataclasses.fields(thing) if field.init and not field.name.startswith("_")]
    if fields:
        notes = {name: note for base in reversed(thing.__mro__) for name, note in inspect.get_annotations(base).items()}
        arguments |= {name: text for name, text in attributes.items() if name in fields}
        yield from _compare({name: inspect.formatannotation(notes[name]) for name in fields}, arguments)
    elif inspect.isfunction(constructor := getattr(thing, "__init__", None)):
        there = _arguments(constructor)
        own = "__init__" in vars(thing)  # else the base describes it, and Args may take up some again
        yield from _compare(there if own else {name: there[name] for name in there if name in arguments}, arguments)
    for name in attributes:
        if name not in fields and not hasattr(thing, name) and not any(name in _set_in(base) for base in thing.__mro__):
            yield f"attribute {name} is documented, but is not there"


@functools.cache
def _set_in(owner: type) -> set[str]:
    """Names of the attributes that a class declares, or that its lines set; nothing for classes written in C."""
    names = {*inspect.get_annotations(owner)}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    except (OSError, TypeError):
        return names
    stored = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return names | {node.attr for node in stored}


def _of_result(member: Member, function: Function, docstring: Docstring) -> Iterator[str]:
    """Compare Returns or Yields with the annotation of what is given back."""
    annotation = inspect.formatannotation(inspect.signature(function).return_annotation)
    result = docstring.returns
    if annotation in ("None", "NoReturn", "Never"):
        if result is not None:
            yield "a result is documented, but is not there"
        return
    is_generator = inspect.isgeneratorfunction(function)
    attribute = isinstance(member.thing, property | functools.cached_property)
    one_line = "\n" not in member.text and not _arguments(function)
    if result is not None and result.is_generator == is_generator:
        text = f"{result.type_name or ''}{result.description or ''}"
    elif attribute or one_line:
        text = member.text
    else:
        yield f"no {'Yields' if is_generator else 'Returns'}"
        return
    if re.search(r"\bTensor\b", annotation) and not SHAPE.search(text):
        yield "the result is a tensor without a shape"


def _of_errors(functions: Iterable[Function], docstring: Docstring) -> Iterator[str]:
    """Compare Raises with the errors that are raised in the functions' own lines, not in what they call."""
    documented = {word for error in docstring.raises for word in re.findall(r"\w+", error.type_name or "")}
    for function in functions:
        try:
            source = textwrap.dedent(inspect.getsource(function))
        except OSError:  # made by `dataclass`
            continue
        for name in sorted(_raised(ast.parse(source).body[0]) - documented - {"NotImplementedError"}):
            yield f"raises {name}, which is not documented"


def _raised(node: ast.AST) -> set[str]:
    """Names of the errors; functions inside raise theirs when they are called."""
    names = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Raise) and child.exc is not None:
            error = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            names |= {error.attr if isinstance(error, ast.Attribute) else getattr(error, "id", "")}
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            names |= _raised(child)
    return {name for name in names if name[:1].isupper()}  # not a variable


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__
    faults = [fault for member in members_of(module) for fault in faults_of(member)]
    assert not faults, "\n".join(["", *faults])


@pytest.mark.parametrize("name", [name for name in MODULES if hasattr(importlib.import_module(name), "__all__")])
def test_exported_names_are_there_in_order_and_among_those_looked_at(name):
    package = importlib.import_module(name)
    assert package.__all__ == sorted(package.__all__)
    for thing in (getattr(package, exported) for exported in package.__all__):
        if inspect.isclass(thing) or inspect.isroutine(thing):  # and no alias of a type
            home = importlib.import_module(thing.__module__)
            assert home.__name__ in MODULES
            assert any(member.thing is thing for member in members_of(home))


@pytest.mark.parametrize("name", ["", ".callbacks", ".datamodules"])
def test_exported_names_have_an_example(name):
    package = importlib.import_module(f"primenet_lightning{name}")
    texts = {name: getattr(package, name).__doc__ for name in package.__all__}
    shown = {name for name, text in texts.items() if re.search(r"^ *Examples?:\n\s+>>> ", text, flags=re.M)}
    assert texts.keys() - shown == texts.keys() & WITHOUT_EXAMPLE.keys()


def test_the_walk_finds_all_kinds_of_things():
    names = {m.name for name in MODULES for m in members_of(importlib.import_module(name))}
    assert {
        "primenet_lightning.nn.prime.block.PrimeBlock",  # a class
        "primenet_lightning.nn.prime.block.PrimeBlock.multiscale",  # a class method
        "primenet_lightning.nn.network.StagedNetwork.evaluate",  # one under a decorator
        "primenet_lightning.nn.targets.local_targets",  # a context
        "primenet_lightning.nn.prime.router.Router.settled",  # a property
        "primenet_lightning.callbacks.publishing.publish",
        "primenet_lightning.datamodules.base.ImageDataModule.load_arrays",  # an abstract method
        "primenet_lightning.baselines.multi_exit.exit_table",
    } <= names
    assert len(names) > 500
    assert not [name for name in names if "._" in name]


MADE_UP = '''
"""Faults, one each, and what is sound."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from lightning.pytorch import Callback
from torch import Tensor, nn


def silent(): pass


def sound(x: Tensor, *rest: float) -> Tensor:
    """Add.

    Args:
        x: Images, ``(batch, height, width)``.
        *rest: Numbers (real, or whole).

    Returns:
        Of the same shape.

    Raises:
        ValueError: If there is no rest.
    """
    def later() -> None:
        raise KeyError
    if not rest:
        raise ValueError("rest is empty")
    return x + sum(rest)


def forgets_argument(x: int, y: int) -> None:
    """Do.

    Args:
        x: A number.
    """


def invents_argument(x: int) -> None:
    """Do.

    Args:
        x: A number.
        z: Another.
    """


def forgets_result(x: int) -> int:
    """Do.

    Args:
        x: A number.
    """
    return x


def invents_result() -> None:
    """Do.

    Returns:
        Nothing.
    """


def forgets_yield() -> Iterator[int]:
    """Count.

    Returns:
        Numbers.
    """
    yield 1


@contextmanager
def forgets_yield_too(x: int) -> Iterator[None]:
    """Enter.

    Args:
        x: A number.
    """
    yield


def forgets_shape(x: Tensor | None) -> None:
    """Do.

    Args:
        x: Images (grey, or coloured in some way).
    """


def forgets_shape_of_function(f: Callable[[Tensor], Tensor]) -> None:
    """Do.

    Args:
        f: From images to logits.
    """


def forgets_shape_of_result() -> dict[str, Tensor]:
    """Losses by name."""
    return {}


def forgets_error(x: int) -> None:
    """Do.

    Args:
        x: A number.

    Raises:
        TypeError: Never.
    """
    for _ in range(x):
        raise ValueError(x)


class Forgets(nn.Module):
    """Forgets its argument.

    Attributes:
        kept: What is set.
        lost: What is not.
    """

    def __init__(self, x: int) -> None:
        super().__init__()
        if x < 0:
            raise ValueError(x)
        self.kept, other = x, 0

    def forward(self, x: Tensor) -> Tensor:
        """One line is too little here: the base has other arguments."""
        return x

    @property
    def shapeless(self) -> Tensor:
        """A tensor of some kind.

        It has no shape.
        """
        return Tensor()

    @staticmethod
    def undescribed() -> int:
        return 1


class Inherits(Forgets):
    """Forgets nothing: its base has told."""

    def forward(self, x: Tensor) -> Tensor:
        """Do otherwise."""
        return -x


class Hooks(Callback):
    """Hooks of Lightning."""

    def on_train_end(self, trainer: object, pl_module: object) -> None:
        """Stop."""

    def on_train_start(self, trainer: object, pl_module: object) -> None:
        """Start.

        With more than a line.
        """

    def on_train_ends(self, trainer: object) -> None:
        """Hook of nobody."""


class Pair(NamedTuple):
    """Two.

    Attributes:
        left: A scalar.
    """

    left: Tensor
    right: Tensor


@dataclass
class Single:
    value: int
'''

FAULTS = """
silent: no docstring
forgets_argument: argument y is not documented
invents_argument: argument z is documented, but is not there
forgets_result: no Returns
invents_result: a result is documented, but is not there
forgets_yield: no Yields
forgets_yield_too: no Yields
forgets_shape: argument x is a tensor without a shape
forgets_shape_of_function: argument f is a tensor without a shape
forgets_shape_of_result: the result is a tensor without a shape
forgets_error: raises ValueError, which is not documented
Forgets: argument x is not documented
Forgets: attribute lost is documented, but is not there
Forgets: raises ValueError, which is not documented
Forgets.forward: argument x is not documented
Forgets.forward: no Returns
Forgets.shapeless: the result is a tensor without a shape
Forgets.undescribed: no docstring
Hooks.on_train_start: argument trainer is not documented
Hooks.on_train_start: argument pl_module is not documented
Hooks.on_train_ends: argument trainer is not documented
Pair: argument right is not documented
Single: no docstring
"""


def test_each_kind_of_fault_is_found_and_no_other(tmp_path, monkeypatch):
    (tmp_path / "made_up_api.py").write_text(MADE_UP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_up_api", raising=False)
    faults = [fault for member in members_of(importlib.import_module("made_up_api")) for fault in faults_of(member)]
    assert [fault.removeprefix("made_up_api.") for fault in faults] == FAULTS.split("\n")[1:-1]


@pytest.mark.parametrize(
    "text",
    [
        "uint8 (batch, channels, height, width)",
        "Class indices, int64 ``(batch,)``",
        "``(joint routes, 2)``",
        "(batch, height / stride)",
        "Scalars by name",
        "of any shape",
    ],
)
def test_what_is_a_shape(text):
    assert SHAPE.search(text)


@pytest.mark.parametrize(
    "text", ["Images", "logits (of the head, not of capsules)", "``(x)``", "the loss (eq. 1)", "()", "()``, 1``"]
)
def test_what_is_no_shape(text):
    assert not SHAPE.search(text)
