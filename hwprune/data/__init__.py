"""Data sets of labelled images in the splits train, validation and test."""

from hwprune.data.augment import Augmentation, Transform, crop_and_flip, photographs
from hwprune.data.datasets import (
    ArrayPixels,
    Augmented,
    Data,
    Evaluated,
    LabelledDataset,
    Pixels,
    Samples,
    batches,
    load_data,
    make_data,
)
from hwprune.data.image_folder import Cache, FilePixels, read_image
from hwprune.data.splits import balanced_indices, hold_out

__all__ = [
    "ArrayPixels",
    "Augmentation",
    "Augmented",
    "Cache",
    "Data",
    "Evaluated",
    "FilePixels",
    "LabelledDataset",
    "Pixels",
    "Samples",
    "Transform",
    "balanced_indices",
    "batches",
    "crop_and_flip",
    "hold_out",
    "load_data",
    "make_data",
    "photographs",
    "read_image",
]
