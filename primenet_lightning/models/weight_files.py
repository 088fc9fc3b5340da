"""Weights in a safetensors file: read by its library, or without it by the few lines that its format takes."""

import importlib.util
import json
from pathlib import Path

import torch
from torch import Tensor

from primenet_lightning.arguments import first_line

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What the format calls the types that networks have."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name. Nothing in the file can run.

    The networks that the package brings along are to be read from a bare install, and the library is an extra.

    Args:
        path: Of a safetensors file.

    Returns:
        Tensors of any shape, by name.

    Raises:
        ValueError: If the file is not whole.
    """
    try:
        if importlib.util.find_spec("safetensors") is None:
            return read_plainly(path.read_bytes())
        from safetensors.torch import load_file

        tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:  # the library has an error of its own
        raise ValueError(f"{path} is no whole safetensors file ({first_line(error)}); copy it again") from error
    return tensors


def read_plainly(content: bytes) -> dict[str, Tensor]:
    """Read a safetensors file: 8 bytes say how long its JSON is; that says where each tensor lies behind it.

    Args:
        content: Of the file.

    Returns:
        Tensors of any shape, by name.

    Raises:
        ValueError: If the bytes do not add up.
    """
    begin = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:begin])
    entries.pop("__metadata__", None)
    length = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if begin + length != len(content):
        raise ValueError(f"{len(content)} bytes, where {begin + length} are told")
    tensors: dict[str, Tensor] = {}
    for name, entry in entries.items():
        first, last = entry["data_offsets"]
        tensor = torch.empty(0, dtype=DTYPES[entry["dtype"]])
        if last > first:
            tensor = torch.frombuffer(bytearray(content[begin + first : begin + last]), dtype=tensor.dtype)
        tensors[name] = tensor.reshape(entry["shape"])
    return tensors
