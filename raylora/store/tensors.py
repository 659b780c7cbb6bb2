"""The bytes of a safetensors file become tensors, or one kind of error that says why not; nothing is unpickled.

Called by `checkpoint`, and by whoever reads an adapter.
"""

from __future__ import annotations

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a file by name, on the CPU.

    Args:
        data: All of the file.

    Raises:
        ValueError: It is none of safetensors, or holds what torch has no tensor for.
    """
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    except KeyError as error:  # what is written in Rust knows dtypes that what is written in Python does not
        raise ValueError(f"a tensor has the dtype {error.args[0]}, of which torch makes none; convert it") from error
    except (TypeError, RuntimeError) as error:  # a side of 2^63 beside one of 0, which leaves no bytes
        raise ValueError("a tensor has a shape that torch makes none of") from error
