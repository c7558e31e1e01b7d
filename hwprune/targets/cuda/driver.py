"""The NVIDIA driver, called directly, before any package is imported that needs a GPU."""

from __future__ import annotations

import ctypes
from typing import Any

from hwprune.errors import NotHere

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def need_driver() -> None:
    """Check that there is a driver with a GPU; without one TensorRT 8.6 may crash.

    Raises:
        NotHere: there is no driver, or it finds no GPU.
    """
    _open()


def gpu_here() -> tuple[str, str]:
    """The first GPU's name and its compute capability, such as ``sm89``.

    Raises:
        NotHere: there is no driver, or it finds no GPU.
    """
    driver, device = _first()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return name.value.decode(), f"sm{major.value}{minor.value}"


def gpu_bus() -> str:
    """The first GPU's PCI bus ID, because ``nvidia-smi`` numbers GPUs otherwise than CUDA.

    Raises:
        NotHere: there is no driver, or it finds no GPU.
    """
    driver, device = _first()
    place = ctypes.create_string_buffer(32)
    driver.cuDeviceGetPCIBusId(place, len(place), device)
    return place.value.decode()


def _first() -> tuple[Any, ctypes.c_int]:
    driver, device = _open(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    return driver, device


def _open() -> Any:
    found = ctypes.c_int(0)
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
        status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(found))
        reason = f"cuInit gave error {status}" if status else "it finds no GPU"
    except (OSError, AttributeError) as error:
        driver, reason = None, str(error)
    if not found.value:
        raise NotHere(
            f"This needs an NVIDIA GPU with its driver; there is none here ({reason}). Run the "
            "same command on the machine with the GPU. Only TensorRT-RTX builds engines without a "
            "GPU: `hwprune export --engine tensorrt-rtx --for sm89`."
        )
    return driver
