"""hwprune: channel pruning to a latency that was measured on the device.

Where PyTorch is not installed, only measuring works: ``hwprune.latency``, targets, latency tables.
"""

from importlib.util import find_spec

from hwprune import _checkout as _checkout
from hwprune.graph import ChannelGraph, Channels, Group, Layer, Slice
from hwprune.plan import Plan
from hwprune.recipe import Recipe
from hwprune.table import LatencyTable

if find_spec("torch") is not None:
    from hwprune.budget import Budget, fit_budget
    from hwprune.checkpoint import load, save
    from hwprune.explain import explain
    from hwprune.importance.reconstruct import features
    from hwprune.job import Job
    from hwprune.prepare import prepare
    from hwprune.profile import profile
    from hwprune.prune import prune
    from hwprune.score import score, score_branches
    from hwprune.slimming.deadline import Deadline
    from hwprune.slimming.in_place import InPlace
    from hwprune.slimming.nested import NestedPlan, Wanted, nested
    from hwprune.slimming.slim import SlimNetwork, make_slim
    from hwprune.slimming.slim_file import load_slim, save_slim
    from hwprune.solve import cheapest, pareto, solve
    from hwprune.steps import run
    from hwprune.trace import trace
    from hwprune.train import Teaching, Training, finetune
    from hwprune.training.distill import Distillation

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "ChannelGraph",
    "Channels",
    "Deadline",
    "Distillation",
    "Group",
    "InPlace",
    "Job",
    "LatencyTable",
    "Layer",
    "NestedPlan",
    "Plan",
    "Recipe",
    "Slice",
    "SlimNetwork",
    "Teaching",
    "Training",
    "Wanted",
    "cheapest",
    "explain",
    "features",
    "finetune",
    "fit_budget",
    "load",
    "load_slim",
    "make_slim",
    "nested",
    "pareto",
    "prepare",
    "profile",
    "prune",
    "run",
    "save",
    "save_slim",
    "score",
    "score_branches",
    "solve",
    "trace",
]
