"""``primenet export``: a trained network as a file that another program runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from primenet_lightning.commands.describing import add_description, add_early_exit, description_in
from primenet_lightning.commands.parser import CommandParser
from primenet_lightning.commands.predict import early_exit_of
from primenet_lightning.runs.folder import checkpoint_in

UNITS = {"logits": "the largest logit", "probabilities": "probability 1"}
"""What differences are measured in."""


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Command line after ``export``.

    Returns:
        0.
    """
    options = _parser().parse_args(list(args))
    checkpoint = checkpoint_in(options.run)
    description = description_in(options)

    from primenet_lightning.analysis.prediction import load_model
    from primenet_lightning.serving.exporting import SUFFIXES, export  # loads Lightning, which takes a while
    from primenet_lightning.serving.metadata import summary

    out = options.out
    if out is None:
        out = f"{_name(options.run)}{SUFFIXES.get(options.format, '')}"
    if options.early_exit is not None:
        _refuse_with_parts(options)
        early = early_exit_of(load_model(checkpoint, description), options.early_exit)
        assert early is not None
        print(f"{early.export(out if options.out else _name(options.run), options.dtype)}: {len(early.costs)} parts; "
              f"python run.py IMAGE ... in there classifies images")  # fmt: skip
        return 0
    exported = export(checkpoint, out, options.format, options.dtype, options.probabilities, description)
    print(f"{exported.path}: {summary(exported.metadata)}")
    print(f"{exported.weight_bytes / 1e6:.2f} MB of weights; from the trained network in float32 at most "
          f"{exported.error:.1e} away, in units of {UNITS[exported.metadata['output']]}")  # fmt: skip
    return 0


def _refuse_with_parts(options: Any) -> None:
    """Parts are ONNX files, whose exits look at logits."""
    if options.format != "onnx":
        raise ValueError(f"early_exit={options.early_exit} is exported in parts, which are ONNX; use --format onnx")
    if options.probabilities:
        raise ValueError("probabilities cannot be given by parts, whose exits look at logits; leave either out")


def _name(run: str) -> str:
    """What the run is called, without suffix."""
    path = Path(run).expanduser().resolve()
    return path.name if path.is_dir() else path.stem


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="primenet export",
        description="Write a trained network as it predicts, and nothing else: normalisation inside, of a routed block "
        "only the routed capsule.",
    )
    parser.add_argument("run", type=str, help="Run folder or checkpoint file.")
    parser.add_argument(
        "--format",
        type=str,
        required=True,
        help="torch: a program of torch.export. onnx: for onnxruntime. safetensors: weights and JSON, for "
        "from_pretrained.",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="File to write; a folder for safetensors. Default: the run's name, in this folder.",
    )
    parser.add_argument(
        "--dtype", type=str, default="float32", help="Of the weights: float32, float16, or bfloat16 (not in onnx)."
    )
    parser.add_argument("--probabilities", action="store_true", help="End with a softmax, instead of giving logits.")
    add_early_exit(parser)
    add_description(parser)
    return parser
