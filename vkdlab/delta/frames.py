"""What a frame is, said to who gives something else."""

from __future__ import annotations

from torch import Tensor


def check_frame(frame: Tensor) -> None:
    """Raises a ValueError unless this is a batch of RGB frames of floating-point numbers."""
    if not isinstance(frame, Tensor):
        raise ValueError(f"a frame is a tensor (b, 3, h, w), got {type(frame).__name__}")
    shape = tuple(frame.shape)
    if frame.ndim != 4:
        cure = ". Give frame[None]" if frame.ndim == 3 else ""
        raise ValueError(f"a frame has the shape (b, 3, h, w), got {shape}{cure}")
    if shape[1] != 3:
        kind = {1: "a grey frame: repeat its channel three times", 4: "a frame with alpha: leave the fourth out"}
        if shape[3] == 3:
            kind[shape[1]] = "channels come second: permute(0, 3, 1, 2)"
        raise ValueError(f"a frame has three channels (b, 3, h, w), got {shape}; {kind.get(shape[1], 'give RGB')}")
    if not frame.is_floating_point():
        raise ValueError(
            f"a frame is of floating-point numbers, got {frame.dtype}: convert it, and scale it as the network was "
            "trained (0 to 255 is not 0 to 1)"
        )
    if 0 in shape:
        raise ValueError(f"a frame has at least one pixel and a batch at least one frame, got {shape}")


def check_period(period: int) -> None:
    """Raises a ValueError unless this is a whole number of frames."""
    if isinstance(period, bool) or not isinstance(period, int) or period < 1:
        raise ValueError(f"a period is a whole number of frames, at least 1, got {period!r}")
