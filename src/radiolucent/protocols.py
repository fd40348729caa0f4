"""What a target and a method are. Both are structural: no base class to inherit from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeGuard, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Target(Protocol):
    """What is explained: a map from the model's output to one score per target and batch item.

    A target decides for t >= 1 scores at once, which then share one forward pass.
    """

    def __call__(self, output: Any) -> Tensor:
        """Scores (t, b), differentiable with respect to `output`."""
        ...

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        """A name for each of the t scores, in words where the `classes` have them."""
        ...

    def fix(self, output: Any) -> Self:
        """The target with everything decided that depends on the unperturbed output (a predicted mask)."""
        ...


@runtime_checkable
class Additive(Target, Protocol):
    """A target that can be a sum over the voxels of the output: then it is also a sum over windows.

    Where `adds_up`, S(f) = sum_w S_w(f[w]) for the targets S_w that `within` gives for parts w of the grid and factors
    that sum to 1 at each voxel.
    """

    def adds_up(self, grid: Sequence[int]) -> bool:
        """Whether this one is such a sum, over an output on this grid."""
        ...

    def within(self, where: tuple[slice, ...], factor: Tensor) -> tuple[Target, tuple[int, ...]]:
        """S_w for the part `where` of the grid and a factor (*part), and which of the t scores have weight there."""
        ...


def adds_up(targets: Target, grid: Sequence[int]) -> TypeGuard[Additive]:
    """Whether the targets are a sum over the voxels of an output on this grid."""
    return isinstance(targets, Additive) and targets.adds_up(grid)


@runtime_checkable
class Method(Protocol):
    """How it is explained. Implementations are frozen dataclasses whose fields are hyper-parameters."""

    @property
    def unit(self) -> str:
        """The unit of the relevance, in words, for legends."""
        ...

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        """Signed, un-normalised relevance (t, b, c, *cells) of x (b, channels, *grid).

        `cells` is the method's own grid over the same field of view as `grid`; c is the number of
        input channels, or 1 where the method does not tell channels apart.
        """
        ...


@runtime_checkable
class FirstOrder(Method, Protocol):
    """A method that needs no more than a value and its gradient at one place of the network.

    All such methods, at any number of layers, share one forward pass and one backward pass per target.
    `weighs_channels = True` on one says that its map is a weighted sum of feature maps, with one weight for all of a
    channel's cells. In a model that predicts in windows it is then the windows' mean where they overlap, as the output
    is, and else their sum, as the gradient is.
    """

    @property
    def layer(self) -> str:
        """Dotted name of a module whose output is the place, or "" for the model's input."""
        ...

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Relevance (b, c', *cells) from the value A and dS/dA at `layer`, both (b, c, *cells)."""
        ...


@runtime_checkable
class Detailed(Method, Protocol):
    """A method that has more to say than its map: standard errors, what it took, how it converged."""

    def detailed(self, model: nn.Module, x: Tensor, targets: Target) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        """The map of one image, and for each target plain values: an Explanation keeps them as provenance["details"]."""
        ...


@runtime_checkable
class Sliced(Protocol):
    """A model that cuts volumes into slices and pools the features that a 2D encoder has of each (SliceModel).

    Features come in the order of `axes` ("i", "j", "k": the axes of the input), those of each from its first slice to
    its last. They pass through the part `stack`, and the weights (b, heads, slices) that the pooling multiplies with,
    where it has any, through its part `weights`: both can be watched as layers.
    """

    axes: tuple[str, ...]
    encoder: nn.Module
    stack: nn.Module
    pooling: nn.Module

    def prepare(self, slices: Tensor) -> Tensor:
        """Slices (n, c, h, w) as the encoder takes them."""
        ...

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The encoder's features of all slices (b, slices, width)."""
        ...

    def from_features(self, features: Tensor, mask: Tensor | None = None) -> Any:
        """The model's output for these features; slices at which the mask (b, slices) is False are left out."""
        ...
