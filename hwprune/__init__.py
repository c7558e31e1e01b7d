"""hwprune: structured pruning of trained CNNs to a latency that is measured on the device.

Structured pruning removes whole channels and residual branches, so that the pruned network is a
smaller ordinary network. Without PyTorch, this package exports only what measuring needs.
"""

from importlib.util import find_spec

from hwprune import _checkout as _checkout
from hwprune.graph import ChannelGraph, Channels, Group, Layer, Slice
from hwprune.latency.table import LatencyTable
from hwprune.plan import Plan
from hwprune.recipe import Recipe
from hwprune.version import __version__ as __version__

if find_spec("torch") is not None:
    from hwprune import demo as demo
    from hwprune.importance.branches import score_branches
    from hwprune.importance.score import score
    from hwprune.latency.budget import Budget
    from hwprune.pipeline.adopt import adopt
    from hwprune.pipeline.profile import profile
    from hwprune.pipeline.run_context import Job
    from hwprune.pipeline.runner import run
    from hwprune.pruning.checkpoint import load, save
    from hwprune.pruning.prepare import prepare
    from hwprune.pruning.prune import prune
    from hwprune.pruning.reconstruct import features
    from hwprune.slimmable.deadline import Deadline
    from hwprune.slimmable.file import load_slim, save_slim
    from hwprune.slimmable.joint_training import InPlace
    from hwprune.slimmable.nested_plans import NestedPlan, Wanted, nested
    from hwprune.slimmable.network import SlimNetwork, make_slim
    from hwprune.solver.closed_loop import fit_budget
    from hwprune.solver.constraints import Constraints
    from hwprune.solver.explain import explain
    from hwprune.solver.solve import cheapest, pareto, solve
    from hwprune.solver.width_options import WidthOptions
    from hwprune.tasks.evaluation import Metric
    from hwprune.tasks.task import Task
    from hwprune.tracing.trace import trace
    from hwprune.training.distillation_loss import Distillation
    from hwprune.training.finetune import Teaching, Training, finetune
    from hwprune.training.teacher import InnerDistillation

__all__ = [
    "Budget",
    "ChannelGraph",
    "Channels",
    "Constraints",
    "Deadline",
    "Distillation",
    "Group",
    "InPlace",
    "InnerDistillation",
    "Job",
    "LatencyTable",
    "Layer",
    "Metric",
    "NestedPlan",
    "Plan",
    "Recipe",
    "Slice",
    "SlimNetwork",
    "Task",
    "Teaching",
    "Training",
    "Wanted",
    "WidthOptions",
    "adopt",
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
