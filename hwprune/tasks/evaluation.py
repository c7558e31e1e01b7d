"""Results of a network over a set of images."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Metric:
    """The metric of a task that is reported first, and how it is written.

    Attributes:
        name: its name among the values that the task's metrics give.
        label: its name in reports; empty for ``name``.
        larger_is_better: whether networks with larger values are better.
        share: whether it is a share in [0, 1], which is written in percent.
        of_images: whether it is the share of the images that are right, so that its standard error
            is the binomial one.
    """

    name: str
    label: str = ""
    larger_is_better: bool = True
    share: bool = True
    of_images: bool = False

    @property
    def words(self) -> str:
        """Its name in reports."""
        return self.label or self.name

    def text(self, value: float, digits: int = 1) -> str:
        """A value in words, such as ``82.6%`` or ``0.1235``."""
        return f"{value:.{digits}%}" if self.share else f"{value:.4g}"

    def difference(self, value: float, other: float) -> str:
        """How far a value is above another one, such as ``+0.90 points``."""
        if self.share:
            return f"{100 * (value - other):+.2f} points".replace("-", "−")
        return f"{value - other:+.4g}".replace("-", "−")


TOP1 = Metric("top1", "accuracy", of_images=True)


@dataclass(frozen=True)
class Evaluation:
    """Results of a network over a set of images.

    Attributes:
        values: values of the metrics by name; those of single classes are named
            ``metric/class``.
        loss: mean loss of an image.
        count: number of images.
        metric: the metric that is reported first.
    """

    values: dict[str, float]
    loss: float
    count: int
    metric: Metric = TOP1

    @property
    def value(self) -> float:
        """The value of the metric that is reported first."""
        return self.values[self.metric.name]

    @property
    def top1(self) -> float:
        """Share of the images that are classified correctly; of classifications alone."""
        return self.values["top1"]

    @property
    def standard_error(self) -> float | None:
        """Standard error of ``value`` by the binomial distribution; None where it is unknown."""
        if not self.metric.of_images:
            return None
        return float((self.value * (1 - self.value) / self.count) ** 0.5)

    def is_better(self, other: Evaluation) -> bool:
        """Whether the value of the first metric is better than another's."""
        apart = self.value - other.value
        return apart > 0 if self.metric.larger_is_better else apart < 0

    def brief(self) -> Evaluation:
        """The same without the values of single classes."""
        kept = {name: value for name, value in self.values.items() if "/" not in name}
        return replace(self, values=kept)

    def __str__(self) -> str:
        text = self.metric.text(self.value)
        if self.standard_error is None:
            return f"{self.metric.words} {text}"
        return f"{text} (± {self.metric.text(self.standard_error)})"
