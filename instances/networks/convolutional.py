"""Convolutional networks by their published definitions, for inference on images.

ResNet-50: He et al., arXiv 1512.03385, table 1. Inception-v3: Szegedy et al., arXiv 1512.00567, table 1 and figures 5
to 7 with the branch widths of its reference implementation. MobileNet-v2: Sandler et al., arXiv 1801.04381, table 2.
DenseNet-121: Huang et al., arXiv 1608.06993, table 1. EfficientNet-B0: Tan and Le, arXiv 1905.11946, table 1.
"""

from __future__ import annotations

from instances.networks.net import Map, Net, rounded
from instances.replacement import Problem

CLASSES = 1000


def resnet50(batch: int) -> Problem:
    """Stages of 3, 4, 6 and 3 bottlenecks."""
    net = Net("resnet-50", batch)
    x = net.pool(net.conv(net.source(3, 224), 64, 7, 2))
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            skip = x if block else net.conv(x, 4 * width, 1, stride)
            inner = net.conv(net.conv(x, width), width, 3, stride)
            x = net.add(net.conv(inner, 4 * width), skip)
    return net.problem(net.dense(net.mean(x), CLASSES))


def mobilenet_v2(batch: int) -> Problem:
    """Inverted residuals: widen, filter each channel, narrow."""
    net = Net("mobilenet-v2", batch)
    x = net.conv(net.source(3, 224), 32, 3, 2)
    for factor, channels, count, first_stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(count):
            stride = first_stride if not block else 1
            inner = x if factor == 1 else net.conv(x, factor * x.channels)
            out = net.conv(net.depthwise(inner, 3, stride), channels)
            x = net.add(out, x) if stride == 1 and channels == x.channels else out
    return net.problem(net.dense(net.mean(net.conv(x, 1280)), CLASSES))


def densenet121(batch: int) -> Problem:
    """Dense blocks of 6, 12, 24 and 16 layers; each layer's 32 channels are appended to what was there."""
    net = Net("densenet-121", batch)
    x = net.pool(net.conv(net.source(3, 224), 64, 7, 2))
    for block, layers in enumerate((6, 12, 24, 16)):
        x = dense_block(net, x, layers)
        if block < 3:
            x = net.pool(net.conv(x, x.channels // 2))
    return net.problem(net.dense(net.mean(x), CLASSES))


def dense_block(net: Net, x: Map, layers: int) -> Map:
    """Layers of a 1x1 and a 3x3 convolution, each reading what all before it made."""
    for _ in range(layers):
        x = net.concat(x, net.conv(net.conv(x, 128), 32, 3))
    return x


def densenet_block(batch: int) -> Problem:
    """The second dense block of DenseNet-121 alone: 12 layers at 28 by 28."""
    net = Net("densenet-block", batch)
    return net.problem(dense_block(net, net.source(128, 28), 12))


def efficientnet_b0(batch: int) -> Problem:
    """Inverted residuals with squeeze and excitation."""
    net = Net("efficientnet-b0", batch)
    x = net.conv(net.source(3, 224), 32, 3, 2)
    for factor, channels, count, first_stride, kernel in (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ):
        for block in range(count):
            stride = first_stride if not block else 1
            inner = x if factor == 1 else net.conv(x, factor * x.channels)
            inner = net.depthwise(inner, kernel, stride)
            squeezed = net.dense(net.mean(inner), rounded(x.channels / 4, 1))
            inner = net.scale(inner, net.dense(squeezed, inner.channels))
            out = net.conv(inner, channels)
            x = net.add(out, x) if stride == 1 and channels == x.channels else out
    return net.problem(net.dense(net.mean(net.conv(x, 1280)), CLASSES))


def inception_v3(batch: int) -> Problem:
    """Three kinds of modules with three to four branches, and two that halve the side."""
    net = Net("inception-v3", batch)
    x = net.valid_conv(net.source(3, 299), 32, 3, 2)
    x = net.conv(net.valid_conv(x, 32, 3), 64, 3)
    x = net.valid_conv(net.conv(net.pool(x, 2, 3), 80), 192, 3)
    x = net.pool(x, 2, 3)
    for pooled in (32, 64, 64):
        x = _inception_a(net, x, pooled)
    wide = net.valid_conv(net.conv(net.conv(x, 64), 96, 3), 96, 3, 2)
    x = net.concat(net.valid_conv(x, 384, 3, 2), wide, net.pool(x, 2, 3))
    for width in (128, 160, 160, 192):
        x = inception_b(net, x, width)
    left = net.valid_conv(net.conv(x, 192), 320, 3, 2)
    right = net.conv(net.conv(net.conv(x, 192), 192, (1, 7)), 192, (7, 1))
    x = net.concat(left, net.valid_conv(right, 192, 3, 2), net.pool(x, 2, 3))
    for _ in range(2):
        x = _inception_c(net, x)
    return net.problem(net.dense(net.mean(x), CLASSES))


def _inception_a(net: Net, x: Map, pooled: int) -> Map:
    five = net.conv(net.conv(x, 48), 64, 5)
    three = net.conv(net.conv(net.conv(x, 64), 96, 3), 96, 3)
    return net.concat(net.conv(x, 64), five, three, net.conv(net.pool(x, 1), pooled))


def inception_b(net: Net, x: Map, width: int) -> Map:
    """A module with 7x1 and 1x7 convolutions, one branch of three of them and one of five."""
    short = net.conv(net.conv(net.conv(x, width), width, (1, 7)), 192, (7, 1))
    long = net.conv(x, width)
    for kernel in ((7, 1), (1, 7), (7, 1)):
        long = net.conv(long, width, kernel)
    long = net.conv(long, 192, (1, 7))
    return net.concat(net.conv(x, 192), short, long, net.conv(net.pool(x, 1), 192))


def _inception_c(net: Net, x: Map) -> Map:
    two = net.conv(x, 384)
    deep = net.conv(net.conv(x, 448), 384, 3)
    return net.concat(
        net.conv(x, 320),
        net.concat(net.conv(two, 384, (1, 3)), net.conv(two, 384, (3, 1))),
        net.concat(net.conv(deep, 384, (1, 3)), net.conv(deep, 384, (3, 1))),
        net.conv(net.pool(x, 1), 192),
    )


def inception_modules(batch: int) -> Problem:
    """Two modules of Inception-v3 at 17 by 17, of 13 operators each."""
    net = Net("inception-modules", batch)
    x = net.source(768, 17)
    for width in (128, 160):
        x = inception_b(net, x, width)
    return net.problem(x)
