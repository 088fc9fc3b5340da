"""Files of graphs: `torch.export` programs and ONNX, each compared with the eager network as it is written."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from primenet_lightning.arguments import first_line
from primenet_lightning.files import whole
from primenet_lightning.models.pretrained import needs
from primenet_lightning.serving.metadata import NAME, as_texts

Answer = Callable[[Tensor], Tensor]
"""From pixels, uint8 ``(batch, channels, height, width)``, to logits or probabilities, ``(batch, classes)``."""

NEEDED = {"torch": (), "onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}
"""Libraries of each format that are no dependencies."""

TRIED_BATCHES = (1, 3)
"""Of random images, on which a file is compared; other batches than the one that was traced."""


def refuse_missing(format: str) -> None:
    """Refuse a format whose libraries are not installed.

    Args:
        format: Its name.

    Raises:
        ValueError: If one is missing.
    """
    for library in NEEDED[format]:
        needs(library, "export")


def bytes_of(network: nn.Module) -> int:
    """Count the bytes of parameters and buffers.

    Args:
        network: Whose.

    Returns:
        Bytes; what has two names counts once.
    """
    tensors: list[Tensor] = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def random_pixels(metadata: Mapping[str, Any], batch: int) -> Tensor:
    """Draw images, the same each time.

    Args:
        metadata: Of the network that takes them.
        batch: How many.

    Returns:
        uint8 ``(batch, channels, height, width)``.
    """
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, metadata["in_channels"], *metadata["image_size"])
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@torch.no_grad()
def checked(answer: Answer, reference: Answer, metadata: Mapping[str, Any], tolerance: float) -> float:
    """Compare answers, and refuse what differs.

    Args:
        answer: Of what was exported, ``(batch, classes)``.
        reference: Of the eager network, ``(batch, classes)``.
        metadata: Of both.
        tolerance: Largest difference, in units of the largest logit or of 1.

    Returns:
        The largest difference in these units.

    Raises:
        ValueError: If it is larger.
    """
    largest = 0.0
    for batch in TRIED_BATCHES:
        pixels = random_pixels(metadata, batch)
        expected = reference(pixels).float()
        scale = 1.0 if metadata["output"] == "probabilities" else float(expected.abs().max())
        largest = max(largest, float((answer(pixels).float() - expected).abs().max()) / max(scale, 1e-30))
    if not largest <= tolerance:
        raise ValueError(
            f"the exported network answers otherwise than the model, by {largest:.2g} of the largest logit where "
            f"{tolerance} is allowed; nothing was written: what it computes depends on images, or is changed by a "
            "subclass, in a way that was not traced"
        )
    return largest


def traced(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Trace a module, for batches of any size.

    Args:
        module: In evaluation mode.
        inputs: Of two images or more, ``(batch, ...)`` each.

    Returns:
        The program.

    Raises:
        ValueError: If it cannot be traced.
    """
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=_shapes(module, shapes))
    except Exception as error:  # whatever its Python does that a graph cannot
        raise ValueError(
            f"the network cannot be exported, since its forward is no graph for batches of any size "
            f"({first_line(error)}); write what depends on images by tensors alone"
        ) from error


def empty_unused(module: nn.Module, program: torch.export.ExportedProgram) -> bool:
    """Take their memory from parameters that are not used, such as those of exits at which nobody leaves.

    Args:
        module: That was traced; changed in place.
        program: Of it.

    Returns:
        Whether there were any, so that it has to be traced again.
    """
    names = program.graph_signature.inputs_to_parameters
    emptied = False
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names and not node.users:
            parameter = module.get_parameter(names[node.name])
            parameter.data = parameter.data.new_empty(0)
            emptied = True
    return emptied


def _shapes(module: nn.Module, shapes: tuple[Any, ...]) -> Any:
    """Of a forward that takes all tensors as one argument, a tuple in a tuple."""
    return (shapes,) if getattr(module, "takes_tuple", False) else shapes


def write_torch(
    network: nn.Module, path: Path, metadata: Mapping[str, Any], reference: Answer, tolerance: float
) -> tuple[int, float]:
    """Write a program of `torch.export`, with the metadata in an entry ``primenet.json``.

    Args:
        network: From pixels.
        path: Of the file.
        metadata: From `metadata_of`.
        reference: Of the eager network, ``(batch, classes)``.
        tolerance: See `checked`.

    Returns:
        Bytes of weights in it, and the largest difference.
    """
    inputs = (random_pixels(metadata, 2),)
    program = traced(network, inputs)
    if empty_unused(network, program):
        program = traced(network, inputs)
    error = checked(program.module(), reference, metadata, tolerance)
    with whole(path) as draft, quiet(), draft.open("wb") as file:
        torch.export.save(program, file, extra_files={NAME: json.dumps(metadata)})
    tensors = [*program.state_dict.values(), *program.constants.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor)), error


def write_onnx(
    network: nn.Module, path: Path, metadata: Mapping[str, Any], reference: Answer, tolerance: float
) -> tuple[int, float]:
    """Write ONNX, with an entry of the metadata for each entry of ours.

    Args:
        network: From pixels.
        path: Of the file.
        metadata: From `metadata_of`.
        reference: Of the eager network, ``(batch, classes)``.
        tolerance: See `checked`.

    Returns:
        Bytes of weights in it, and the largest difference.
    """
    from primenet_lightning.serving.runner import session_of

    with whole(path) as draft:
        inputs = (random_pixels(metadata, 2),)
        weight_bytes = save_onnx(network, inputs, draft, metadata, ["pixels"], [metadata["output"]])
        session = session_of(draft)

        def answer(pixels: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])

        error = checked(answer, reference, metadata, tolerance)
    return weight_bytes, error


def save_onnx(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    metadata: Mapping[str, Any],
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> int:
    """Trace a module and write it as one ONNX file.

    Args:
        module: In evaluation mode.
        inputs: Of two images or more, ``(batch, ...)`` each.
        path: Of the file.
        metadata: Of it.
        input_names: One an input.
        output_names: One an output.

    Returns:
        Bytes of weights in it.

    Raises:
        ValueError: If it cannot be traced, or has an operation that ONNX has not.
    """
    program = traced(module, inputs)
    try:
        with quiet():
            converted: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=list(input_names), output_names=list(output_names)
            )
    except Exception as error:
        raise ValueError(f"the network cannot be written as ONNX ({first_line(error)}); use format='torch'") from error
    converted.model.producer_name = "primenet-lightning"
    for dimensions in (*converted.model.graph.inputs, *converted.model.graph.outputs):
        dimensions.shape = _named_batch(dimensions.shape)
    converted.model.metadata_props.update(as_texts(metadata))
    converted.save(path, external_data=False)
    return sum(value.const_value.nbytes for value in converted.model.graph.initializers.values())


def _named_batch(shape: Any) -> Any:
    """The same shape, whose first dimension is called batch."""
    import onnx_ir

    return onnx_ir.Shape(["batch", *list(shape)[1:]])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep from the terminal what exporters tell of their own parts.

    Yields:
        Nothing.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
