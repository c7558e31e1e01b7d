"""Read and check ONNX files."""

from __future__ import annotations

import os

import onnx

from hwprune.errors import InputError
from hwprune.storage.atomic_files import StrPath


def read_onnx(path: StrPath) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Raises:
        InputError: the file is missing or is no valid ONNX model.
    """
    try:
        model = onnx.load(os.fspath(path))
        onnx.checker.check_model(model, full_check=True)
    except FileNotFoundError as error:
        raise InputError(f"No ONNX file at {path}; make it with `hwprune export`.") from error
    except Exception as error:  # protobuf and the checker raise kinds of their own
        raise InputError(
            f"{path} is no valid ONNX model: {str(error).splitlines()[0]}. Make it again with "
            "`hwprune export`."
        ) from error
    return model
