"""A builder of networks at the granularity of whole tensors: sizes follow from shapes, nothing else is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from instances.replacement import Part, Problem, Use, Whole

MACS_PER_NS = 176_947
"""Products of 16-bit numbers on all cores of an Ascend 910B2: 24 x 4096 a cycle at 1800 MHz, its machine file."""


@dataclass(frozen=True)
class Map:
    """A tensor of ``channels`` by ``side`` by ``side`` for each item of the batch; ``side`` 1 is a vector."""

    name: str
    channels: int
    side: int

    @property
    def elements(self) -> int:
        """Elements per item."""
        return self.channels * self.side * self.side


@dataclass
class Net:
    """Operators in the order in which they are written down; normalisation and activation belong to the convolution."""

    name: str
    batch: int
    element_bytes: int = 2
    tensors: list[Whole] = field(default_factory=list)
    operators: list[Use] = field(default_factory=list)

    def source(self, channels: int, side: int, name: str = "image") -> Map:
        """What comes from outside."""
        return self._tensor(Map(name, channels, side), Part.INPUT)

    def conv(self, x: Map, channels: int, kernel: int | tuple[int, int] = 1, stride: int = 1, groups: int = 1) -> Map:
        """A convolution that keeps the size but for its stride."""
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        taps = high * wide * x.channels // groups
        side = -(-x.side // stride)
        weight = self.weight(taps * channels)
        return self.operator("conv", [x.name, weight], channels, side, taps * channels * side * side)

    def valid_conv(self, x: Map, channels: int, kernel: int, stride: int = 1) -> Map:
        """A convolution without padding."""
        taps, side = kernel * kernel * x.channels, (x.side - kernel) // stride + 1
        weight = self.weight(taps * channels)
        return self.operator("conv", [x.name, weight], channels, side, taps * channels * side * side)

    def depthwise(self, x: Map, kernel: int, stride: int = 1) -> Map:
        """One filter per channel."""
        return self.conv(x, x.channels, kernel, stride, groups=x.channels)

    def separable(self, x: Map, channels: int, kernel: int, stride: int = 1) -> Map:
        """Depthwise, then pointwise, as two operators."""
        return self.conv(self.depthwise(x, kernel, stride), channels)

    def pool(self, x: Map, stride: int = 2, kernel: int | None = None) -> Map:
        """Pooling; without padding where a ``kernel`` is given."""
        side = -(-x.side // stride) if kernel is None else (x.side - kernel) // stride + 1
        return self.operator("pool", [x.name], x.channels, side)

    def mean(self, x: Map) -> Map:
        """One value per channel."""
        return self.operator("mean", [x.name], x.channels, 1)

    def add(self, *xs: Map) -> Map:
        """Sum (or any element-wise operator) of maps of one size."""
        return self.operator("add", [x.name for x in xs], xs[0].channels, xs[0].side)

    def scale(self, x: Map, by: Map) -> Map:
        """Each channel times a value."""
        return self.operator("scale", [x.name, by.name], x.channels, x.side)

    def concat(self, *xs: Map) -> Map:
        """Channels one after the other, copied."""
        return self.operator("concat", [x.name for x in xs], sum(x.channels for x in xs), xs[0].side)

    def dense(self, x: Map, channels: int) -> Map:
        """A matrix product with a weight; what is written has the positions of ``x``."""
        weight = self.weight(x.channels * channels)
        return self.operator("dense", [x.name, weight], channels, x.side, x.channels * channels * x.side * x.side)

    def combine(self, kind: str, xs: list[Map], elements: int, macs: int = 0) -> Map:
        """Any operator of maps without weights, its result given by the elements of each item."""
        return self.operator(kind, [x.name for x in xs], elements, 1, macs)

    def problem(self, *results: Map, unit_bytes: int = 64) -> Problem:
        """The network, with the smallest scratchpad that runs it; ``results`` go out."""
        out = {result.name for result in results}
        tensors = tuple(t.model_copy(update={"part": Part.OUTPUT}) if t.name in out else t for t in self.tensors)
        enough = sum(tensor.size_bytes + unit_bytes for tensor in tensors)
        whole = Problem(
            name=self.name,
            capacity_bytes=enough,
            unit_bytes=unit_bytes,
            tensors=tensors,
            operators=tuple(self.operators),
        )
        return whole.within(whole.least_bytes)

    def _tensor(self, x: Map, part: Part, items: int | None = None) -> Map:
        count = self.batch if items is None else items
        self.tensors.append(Whole(name=x.name, size_bytes=count * x.elements * self.element_bytes, part=part))
        return x

    def weight(self, elements: int) -> str:
        name = f"w{len(self.operators)}"
        self._tensor(Map(name, elements, 1), Part.WEIGHT, items=1)
        return name

    def operator(self, kind: str, reads: list[str], channels: int, side: int, macs: int = 0) -> Map:
        name = f"{kind}{len(self.operators)}"
        result = self._tensor(Map(f"{name}.out", channels, side), Part.INNER)
        compute = math.ceil(self.batch * macs / MACS_PER_NS)
        uses = tuple(dict.fromkeys(reads))
        self.operators.append(Use(name=name, reads=uses, writes=(result.name,), compute_ns=compute))
        return result


def rounded(channels: float, by: int = 8) -> int:
    """Channels as MobileNet and EfficientNet round them: to a multiple of ``by``, never 10 % down."""
    new = max(by, math.floor(channels + by / 2) // by * by)
    return new + by if new < 0.9 * channels else new
