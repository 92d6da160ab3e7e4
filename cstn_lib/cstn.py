"""`ConvSTN2d`, the convolutional spatial transformer (section III-C).

An ordinary K x K convolution looks at each location through the same square window. Here a small
localization network reads the map and gives every location its own affine theta; the window is
transformed by it, the map is sampled bilinearly at the K x K transformed taps, and the same kernel
weighs the samples:

    theta = loc(f),        f' = conv(f, theta).

With theta = identity the layer *is* `torch.nn.Conv2d`, and it is initialised there. See
`cstn_lib.geometry` for the meaning of theta.
"""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstn_lib.geometry import Window, identity_theta
from cstn_lib.samplers.sampling import SAMPLERS, choose_sampler


def conv_stn2d(
    input: Tensor,
    theta: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    sampler: str = "auto",
) -> Tensor:
    """f' = conv(f, theta): a convolution whose window is transformed at every location.

    From Meethal et al., "Convolutional STN for Weakly Supervised Object Localization", 2020,
    section III-C. At theta = identity it is `torch.nn.functional.conv2d`.

    Args:
        input: (B, C, H, W) or (C, H, W), floating-point.
        theta: (B, h, w, 2, 3) or (h, w, 2, 3): each location's transform of its window, see
            `cstn_lib.geometry`. A tap that it moves to infinity reads zero, one that it moves to
            NaN makes NaN of the location's features.
        weight: (out, C, K, K), K at least 2: a window of one cell has no extent to transform.
        bias: (out,).
        stride, padding, dilation: see `ConvSTN2d`.
        sampler: see `ConvSTN2d`.

    Returns:
        (B, out, h, w) or (out, h, w), in the input's memory format.

    Raises:
        ValueError: input or theta does not fit the weight and the window, or the window or sampler
            is another than documented here.

    Examples::

        >>> theta = torch.eye(2, 3).repeat(1, 4, 4, 1, 1)
        >>> theta[..., :2] *= 0.5  # half the window, in the same place
        >>> conv_stn2d(torch.rand(1, 64, 10, 10), theta, torch.rand(128, 64, 7, 7)).shape
        torch.Size([1, 128, 4, 4])
    """
    if input.dim() == 3:
        arguments = weight, bias, stride, padding, dilation, sampler
        return conv_stn2d(input.unsqueeze(0), theta.unsqueeze(0), *arguments).squeeze(0)
    _check_input(input, weight.shape[1])
    _check_sampler(sampler)
    window = _square_window(tuple(weight.shape[2:]), stride, padding, dilation)
    return _convolve(input, _at_least_float32(theta), weight, bias, window, sampler)


class _AtRest(nn.Conv2d):
    """A convolution that starts at zero, whoever resets it: some tools go through all modules."""

    def reset_parameters(self) -> None:
        super().reset_parameters()  # what is drawn after it stays what it was
        nn.init.zeros_(self.weight)


class LocalizationNetwork(nn.Module):
    """theta = loc(f): two convolutions, the second with the window's taps.

    The first keeps the map's size, the second visits the same locations as the window and ends in
    the six entries of theta; together they see the window and one tap around it. The second's
    weights start at zero and it has no bias: every theta starts as the identity, to which its
    output is added.

    In the authors' code the first convolution is as large as the window, too. Ours is 3 x 3 (never
    larger than the window) with the window's dilation: theta reads as well from it, and it costs
    9 / K^2 as much, where theirs costs about as much as the layer it serves.

    Args:
        in_channels: C of the map it reads.
        window: the geometry of the layer it serves.
        hidden_channels: width between the convolutions.
        device, dtype: of its parameters.

    Shape: (B, C, H, W) -> (B, h, w, 2, 3), with (h, w) = ``window.output_size((H, W))``.
    """

    def __init__(
        self,
        in_channels: int,
        window: Window,
        hidden_channels: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        size = 3 if window.kernel_size >= 3 else 1
        made = {"dilation": window.dilation, "device": device, "dtype": dtype}
        padding = size // 2 * window.dilation
        self.read = nn.Conv2d(in_channels, hidden_channels, size, padding=padding, **made)
        visit = window.kernel_size, window.stride, window.padding
        self.regress = _AtRest(hidden_channels, 6, *visit, bias=False, **made)

    def reset_parameters(self) -> None:
        """Back to the identity, read in a new way."""
        self.read.reset_parameters()
        self.regress.reset_parameters()

    def forward(self, features: Tensor) -> Tensor:
        change = self.regress(F.relu(self.read(features)))  # (B, 6, h, w)
        # theta places boxes: under autocast it leaves bfloat16 here
        change = _at_least_float32(change).permute(0, 2, 3, 1).unflatten(-1, (2, 3))
        return identity_theta(change) + change


class ConvSTN2d(nn.Module):
    """A convolution whose window is transformed at every location.

    Takes `torch.nn.Conv2d`'s arguments and has its ``weight``, ``bias``, attributes and output
    size, and the same result while theta is the identity; but it returns theta, too. From Meethal
    et al., "Convolutional STN for Weakly Supervised Object Localization", 2020, section III-C.

    Args:
        in_channels: C of the input map.
        out_channels: channels produced by the convolution.
        kernel_size: K >= 2; the window is K x K taps. Here and below a pair has two equal sides:
            the window is square.
        stride: step between locations, in cells.
        padding: zeros around the map, in cells; 0 or ``"valid"`` (the default) keeps to valid
            locations, ``"same"`` to the map's size (stride 1 and an even extent (K - 1) *
            dilation, which leaves the window a middle cell).
        dilation: distance between taps, in cells.
        groups: 1.
        bias: whether to add a learned bias.
        padding_mode: ``"zeros"``.
        device, dtype: of the parameters.
        localization: a module (B, C, H, W) -> theta (B, h, w, 2, 3); by default a
            `LocalizationNetwork`.
        localization_channels: hidden width of the default localization network.
        sampler: a name of `SAMPLERS` (see `cstn_lib.samplers.sampling`), or ``"auto"``, the
            fastest for the input. ``"grid_sample"`` alone has second derivatives and works within
            `torch.func` (backwards: PyTorch's has no forward mode).

    Shape:
        - input: (B, in_channels, H, W) or (in_channels, H, W)
        - features: (B, out_channels, h, w) or (out_channels, h, w), in the input's memory format
        - theta: (B, h, w, 2, 3) or (h, w, 2, 3), at least float32

    Raises:
        ValueError: an argument is another than documented here.

    On a CPU ``layer.to(memory_format=torch.channels_last)`` saves a copy of the weight per call.

    Examples::

        >>> layer = ConvSTN2d(64, 128, kernel_size=7)
        >>> features, theta = layer(torch.rand(2, 64, 10, 10))
        >>> features.shape, theta.shape
        (torch.Size([2, 128, 4, 4]), torch.Size([2, 4, 4, 2, 3]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        localization: nn.Module | None = None,
        localization_channels: int = 64,
        sampler: str = "auto",
    ) -> None:
        super().__init__()
        _check_sampler(sampler)
        if groups != 1:
            raise ValueError(f"groups={groups}: expected 1, a kernel that reads all channels")
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode={padding_mode!r}: expected 'zeros'")
        if min(in_channels, out_channels) < 1:
            raise ValueError(
                f"channels {in_channels} and {out_channels}: expected 1 or more of each"
            )
        self.window = window = _square_window(kernel_size, stride, padding, dilation)
        self.in_channels, self.out_channels = in_channels, out_channels
        self._named_padding = padding if isinstance(padding, str) else ""
        self.groups, self.padding_mode, self.sampler = groups, padding_mode, sampler
        made = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels, *self.kernel_size, **made)
        )
        self.bias = nn.Parameter(torch.empty(out_channels, **made)) if bias else None
        if localization is None:
            localization = LocalizationNetwork(in_channels, window, localization_channels, **made)
        self.localization = localization
        self._reset_convolution()

    # as of `torch.nn.Conv2d`, but not to be set: the network that reads theta depends on them
    kernel_size = property(lambda self: (self.window.kernel_size,) * 2)
    stride = property(lambda self: (self.window.stride,) * 2)
    padding = property(lambda self: self._named_padding or (self.window.padding,) * 2)
    dilation = property(lambda self: (self.window.dilation,) * 2)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **options: object) -> ConvSTN2d:
        """A layer with copies of a convolution's parameters, hence with its result (to rounding).

        Args:
            conv: of one group, with a square window; no forward or hooks of its own, which would
                be lost.
            options: the constructor's ``localization``, ``localization_channels``, ``sampler``.

        Raises:
            ValueError: `conv` is something else.
        """
        if not isinstance(conv, nn.Conv2d):
            raise ValueError(f"from_conv: expected a torch.nn.Conv2d, not a {type(conv).__name__}")
        kind, ways = type(conv), ("forward", "_conv_forward")
        own = any(w in vars(conv) or getattr(kind, w) != getattr(nn.Conv2d, w) for w in ways)
        hooks = ("forward_pre", "forward", "backward_pre", "backward")
        if own or any(getattr(conv, f"_{when}_hooks") for when in hooks):
            why = "a forward" if own else "hooks"
            raise ValueError(f"from_conv: this {kind.__name__} has {why} of its own")
        channels, weight = (conv.in_channels, conv.out_channels), conv.weight
        geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
        rest = conv.bias is not None, conv.padding_mode, weight.device, weight.dtype
        layer = cls(*channels, *geometry, *rest, **options)
        for name in ("weight", "bias"):
            if (value := getattr(conv, name)) is not None:
                copy = nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
                setattr(layer, name, copy)
        return layer.train(conv.training)

    def reset_parameters(self) -> None:
        """Initialise weight and bias as `torch.nn.Conv2d` does, and theta at the identity.

        An initialisation that ``net.apply`` takes to every `torch.nn.Conv2d` skips this layer but
        redraws the localization network, so theta leaves the identity: call
        ``layer.localization.reset_parameters()`` after it.
        """
        self._reset_convolution()
        if hasattr(self.localization, "reset_parameters"):
            self.localization.reset_parameters()

    def _reset_convolution(self) -> None:
        # drawn tap by tap: the same seed gives the same weights in every memory layout
        taps_first = torch.empty_like(self.weight, memory_format=torch.channels_last)
        nn.init.kaiming_uniform_(taps_first, a=math.sqrt(5))
        with torch.no_grad():
            self.weight.copy_(taps_first)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self, x: Tensor, theta: Tensor | None = None, *, transform: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Convolve with the given theta, or with the one the localization network reads from `x`.

        Args:
            transform: False rests every theta at the identity, see `plain`.

        Raises:
            ValueError: `x` or `theta` has another shape than documented above, or is not
                floating-point.
        """
        if not transform:
            if theta is not None:
                raise ValueError("theta is given with transform=False, expected one of them")
            return self._at_identity(x)
        if x.dim() == 3:
            given = None if theta is None else theta.unsqueeze(0)
            features, theta = self.forward(x.unsqueeze(0), given)
            return features.squeeze(0), theta.squeeze(0)
        _check_input(x, self.in_channels)
        self.window.output_size((x.shape[2], x.shape[3]))  # raises before the network does
        theta = _at_least_float32(self.localization(x) if theta is None else theta)
        return _convolve(x, theta, self.weight, self.bias, self.window, self.sampler), theta

    def plain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` at theta = identity, as the ordinary convolution that it then is."""
        return self(x, transform=False)  # through hooks, on which weight norm and others rest

    def _at_identity(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _check_input(x, self.in_channels)
        w = self.window
        size = w.output_size((x.shape[-2], x.shape[-1]))
        features = F.conv2d(x, self.weight, self.bias, w.stride, w.padding, w.dilation)
        theta = _at_least_float32(identity_theta(x))
        return features, theta.expand(*x.shape[:-3], *size, 2, 3)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding!r}, dilation={self.dilation}, "
            f"bias={self.bias is not None}, sampler={self.sampler!r}"
        )


def _convolve(
    x: Tensor, theta: Tensor, weight: Tensor, bias: Tensor | None, window: Window, sampler: str
) -> Tensor:
    height, width = window.output_size((x.shape[2], x.shape[3]))
    if theta.shape != (expected := (x.shape[0], height, width, 2, 3)):
        raise ValueError(f"theta has shape {tuple(theta.shape)}, expected {expected}")
    if theta.is_complex():
        raise ValueError(f"theta is of {theta.dtype}, expected a real type")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}, expected {tuple(weight.shape[:1])}")
    if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"weight is of {weight.dtype}, expected the input's {x.dtype}")
    kernel = weight.permute(0, 2, 3, 1).flatten(1)  # (out, K*K*C)
    sample = SAMPLERS[choose_sampler(x) if sampler == "auto" else sampler]
    features = sample(x, theta, window, kernel)  # (B, L, out)
    if bias is not None:
        features = features + bias.to(features.dtype)
    features = features.transpose(1, 2).unflatten(2, (height, width))  # channels last
    # an expanded channel has the stride 0, and is no sign of channels last
    return features if x.stride(3) > x.stride(1) > 0 else features.contiguous()


def _square_window(
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int] | str,
    dilation: int | tuple[int, int],
) -> Window:
    """The `Window` of a Conv2d's arguments.

    Raises:
        ValueError: they describe no square window, or one of a single cell.
    """
    kernel_size, stride = _side("kernel_size", kernel_size), _side("stride", stride)
    dilation = _side("dilation", dilation)
    if kernel_size == 1:
        raise ValueError("kernel_size=1: expected 2 or more, for theta to have something to move")
    if padding == "same":
        extent = (kernel_size - 1) * dilation
        if stride != 1 or extent % 2:
            raise ValueError(
                f"padding='same': expected stride 1 and an even (kernel_size - 1) * dilation, "
                f"not stride {stride} and {extent}"
            )
        padding = extent // 2
    padding = 0 if padding == "valid" else _side("padding", padding)
    return Window(kernel_size, stride, padding, dilation)


def _side(name: str, value: int | tuple[int, int]) -> int:
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(sides) != 2 or sides[0] != sides[1] or not isinstance(sides[0], Integral):
        raise ValueError(f"{name}={value!r}: expected an int, or the same int twice")
    return int(sides[0])


def _check_input(x: Tensor, channels: int) -> None:
    if x.dim() not in (3, 4) or x.shape[-3] != channels:
        expected = f"(B, {channels}, H, W) or ({channels}, H, W)"
        raise ValueError(f"input has shape {tuple(x.shape)}, expected {expected}")
    if not x.is_floating_point():
        raise ValueError(f"input is of {x.dtype}, expected a floating-point type")


def _check_sampler(name: str) -> None:
    if name != "auto" and name not in SAMPLERS:
        raise ValueError(f"sampler {name!r}: expected 'auto' or one of {', '.join(SAMPLERS)}")


def _at_least_float32(theta: Tensor) -> Tensor:
    """Theta in float32 or wider: in bfloat16 points of a map of 64 cells are off by a quarter."""
    return theta.to(torch.promote_types(theta.dtype, torch.float32))
