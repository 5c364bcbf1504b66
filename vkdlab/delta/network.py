"""A network that computes key frames and predicts what changes after them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vkdlab import cost
from vkdlab.delta.answers import joined, mapped, rows_of
from vkdlab.delta.costs import Costs, Macs
from vkdlab.delta.frames import check_frame, check_period
from vkdlab.delta.gates import sample_gate, within_budget
from vkdlab.delta.inspection import Inspection, LayerMaps, drift, root_mean_square
from vkdlab.delta.layers import DeltaBlock, DeltaConv2d, DeltaLayer
from vkdlab.delta.state import DeltaState, Pass

Layout = Literal["channels_last", "contiguous"]


@dataclass(frozen=True)
class Traced:
    """One call, with what its layers saw. Keys are the names of the calls, as in `DeltaState.caches`."""

    output: Any
    """What the network answers."""
    state: DeltaState | None
    """What it remembers; None of the teacher."""
    inputs: Mapping[str, Tensor]
    """Input of each call."""
    outputs: Mapping[str, Tensor]
    """Output of each call."""
    changes: Mapping[str, Tensor]
    """Predicted change of each call's output; none on a key frame."""
    gates: Mapping[str, Tensor]
    """Gates that were drawn, by layer."""


@dataclass(frozen=True)
class Step:
    """One frame of a stream."""

    output: Any
    """What the network answers."""
    key: bool
    """Whether this was a key frame."""
    energy: float | None
    """How much of the frame was new, as `DeltaState.energy` says it; None where nobody asked for a threshold, and for
    the first frame."""
    state: DeltaState
    """What is remembered after it."""


class DeltaNetwork(nn.Module):
    """A per-frame network whose layers are computed on key frames; on other frames their change is predicted.

    Made by `convert`. Norms, dropout and all else that behaves otherwise in training stay as in evaluation: the
    teacher's change and the predicted one must differ by the student alone.

    Args:
        model: whose layers were replaced.
        left: why each convolution that was not replaced was left as it is, by name.
        recipe: what `convert` was told, to do it again.
        layout: of frames within the network.

    Attributes:
        layers: the delta layers, by name.
        searching: whether gates are drawn in training mode; False lets them stand.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        left: Mapping[str, str],
        recipe: Mapping[str, Any],
        layout: Layout = "contiguous",
    ):
        super().__init__()
        self.model = model
        self.left, self.recipe, self.layout = dict(left), dict(recipe), layout
        self.searching = False
        self._identity = object()
        self.train(False)

    @property
    def layers(self) -> dict[str, DeltaLayer]:
        return {module.name: module for module in self.model.modules() if isinstance(module, DeltaLayer)}

    def train(self, mode: bool = True) -> DeltaNetwork:
        """Sets the mode; only the drawing of gates depends on it."""
        super().train(mode)
        self.model.eval()
        return self

    def student_parameters(self) -> list[nn.Parameter]:
        """Of all students, full, small and of blocks."""
        return [p for layer in self.layers.values() for student in _students(layer) for p in student.parameters()]

    def gate_parameters(self) -> list[nn.Parameter]:
        """The gates' logits."""
        return [layer.gate_logit for layer in self.layers.values() if isinstance(layer, DeltaConv2d)]

    def teacher_parameters(self) -> list[nn.Parameter]:
        """All that key frames are computed with."""
        others = {id(p) for p in [*self.student_parameters(), *self.gate_parameters()]}
        return [p for p in self.parameters() if id(p) not in others]

    def forward(self, frame: Tensor, state: DeltaState | None = None) -> tuple[Any, DeltaState]:
        """One frame of each video.

        Args:
            frame: float (b, 3, h, w), in the range and normalisation that the network was trained with.
            state: what the call before returned; None for a key frame. It has to be of the same video: frames of
                another one of the same size are answered as if they followed, which is wrong and cannot be seen from
                their shape. `state.energy(frame)` tells, above 1; `stream` with a threshold asks it of every frame.

        Returns:
            What the network answers, and the state for the next frame.

        Raises:
            ValueError: not such a frame; a state of another network or of frames of another size, type or device; or a
                layer that is called otherwise than on the key frame.
        """
        current = self._pass(frame, state)
        return self._run(frame, current), self._state(current)

    def traced(self, frame: Tensor, state: DeltaState | None = None, *, teacher: bool = False) -> Traced:
        """The same as a call, with what every layer saw.

        Args:
            frame: as in a call.
            state: as in a call.
            teacher: for the teacher alone; it needs no state.
        """
        current = self._pass(frame, None if teacher else state, teacher=teacher, watch=True)
        output = self._run(frame, current)
        state = None if teacher else self._state(current)
        return Traced(output, state, current.inputs, current.outputs, current.changes, current.gates)

    def reference(self, frame: Tensor) -> Any:
        """What the teacher alone answers."""
        return self._run(frame, self._pass(frame, None, teacher=True))

    def stream(
        self, frames: Iterable[Tensor], *, period: int = 4, threshold: float | int | None = None
    ) -> Iterator[Any]:
        """Answers to one video, frame by frame, without gradients.

        Args:
            frames: as in a call, all of one size; read one at a time.
            period: frames from one key frame to the next, at least 1.
            threshold: a frame of which more is new (`DeltaState.energy`; 1 finds cuts) becomes a key frame, and
                counting starts there; None for the period alone.

        Raises:
            ValueError: a period or a threshold out of range, or a frame that does not fit; its number is named.
        """
        return (step.output for step in self.steps(frames, period=period, threshold=threshold))

    def steps(
        self, frames: Iterable[Tensor], *, period: int = 4, threshold: float | int | None = None
    ) -> Iterator[Step]:
        """As `stream`, with what was decided for each frame."""
        check_period(period)
        if threshold is not None and not threshold > 0:
            raise ValueError(f"a threshold must be above 0, got {threshold}")
        return self._steps(frames, period, threshold)

    def clip(self, frames: Tensor, *, period: int | None = None) -> Any:
        """Answers to all frames of clips at once; they agree with `stream` up to rounding.

        Args:
            frames: float (b, t, 3, h, w).
            period: frames from one key frame to the next; None for one key frame, the first.

        Returns:
            What the network answers, with axes (b, t) where a call has (b).

        Raises:
            ValueError: not such frames, an answer whose first axis is not the batch, or a layer that changes the batch.
        """
        if frames.ndim != 5 or not frames.shape[1]:
            raise ValueError(f"a clip has the shape (b, t, 3, h, w) with a frame at least, got {tuple(frames.shape)}")
        b, t = frames.shape[:2]
        period = t if period is None else period
        check_period(period)
        keys = list(range(0, t, period))
        rest = [i for i in range(t) if i % period]
        key_frames = frames[:, keys].flatten(0, 1)
        output, state = self(key_frames)
        order = [(row, i) for row in range(b) for i in keys]
        if rest:
            rows = torch.tensor([row * len(keys) + i // period for row in range(b) for i in rest])
            later = frames[:, rest].flatten(0, 1)
            current = Pass("delta", state=state, rows=rows.to(frames.device), sample=self._sample())
            output = joined(output, self._run(later, current), len(key_frames), len(later))
            order += [(row, i) for row in range(b) for i in rest]
        back = sorted(range(b * t), key=order.__getitem__)
        return mapped(output, lambda tensor: rows_of(tensor, b * t)[back].unflatten(0, (b, t)))

    def deploy(self, *, layout: Layout = "channels_last") -> DeltaNetwork:
        """A network of its own with the chosen students only, for inference. See `vkdlab.delta.deployment`."""
        from vkdlab.delta.deployment import deployed

        return deployed(self, layout=layout)

    @torch.no_grad()
    def costs(self, frame_shape: tuple[int, int, int], *, deployed: bool = False) -> Costs:
        """Multiply-accumulates of all layers and of the rest, for one frame of shape (3, h, w).

        Args:
            frame_shape: of one frame.
            deployed: counts the form that runs (`deploy`), with either student of each layer, in place of this one.
        """
        if len(frame_shape) != 3:
            raise ValueError(f"a frame's shape is (3, h, w), got {tuple(frame_shape)}")
        like = next((p for p in self.parameters() if p.is_floating_point()), torch.zeros(()))
        frame = torch.zeros(1, *frame_shape, dtype=like.dtype, device=like.device)
        current = self._pass(frame, None, teacher=True, watch=True)
        total = cost.macs(lambda: self._run(frame, current))
        layers: dict[str, Macs] = {}
        for call, x in current.inputs.items():
            name = call.partition("#")[0]
            layer = self.layers[name]
            count = layer.deployed_macs_of if deployed else layer.macs_of
            macs = count(x.shape, current.outputs[call].shape)
            layers[name] = layers[name] + macs if name in layers else macs
        return Costs(dense=total - sum(macs.teacher for macs in layers.values()), layers=layers)

    def full_layers(self) -> tuple[str, ...]:
        """Names of the layers whose gate stands for the full student."""
        return tuple(n for n, layer in self.layers.items() if isinstance(layer, DeltaConv2d) and layer.keeps_full)

    def macs_per_frame(self, frame_shape: tuple[int, int, int], period: int) -> float:
        """Average multiply-accumulates of a frame of shape (3, h, w), with the students that the gates now stand for.

        Of this form; what runs is `deploy`, and costs a little else.

        Args:
            frame_shape: of one frame.
            period: frames from one key frame to the next.
        """
        check_period(period)
        return self.costs(frame_shape).per_frame(period, self.full_layers())

    def choose(
        self,
        budget: float | int,
        *,
        frame_shape: tuple[int, int, int],
        period: int = 4,
        scores: Mapping[str, float | int] | None = None,
    ) -> tuple[str, ...]:
        """Sets the gates so that the network, once it is deployed, keeps to a budget.

        Args:
            budget: average cost of a frame of the deployed network, as a share of the teacher's.
            frame_shape: (3, h, w).
            period: frames from one key frame to the next.
            scores: how much each layer gains by its full student; by default the gates' logits, and where these are
                equal the share of the kernel's energy that the small student lacks.

        Returns:
            Names of the layers that keep the full student.

        Raises:
            ValueError: not even small students everywhere keep to the budget, or scores of unknown layers.
        """
        check_period(period)
        layers = {name: layer for name, layer in self.layers.items() if isinstance(layer, DeltaConv2d)}
        if scores is None:
            ranked = {name: (layer.gate_logit.item(), layer.lost_energy()) for name, layer in layers.items()}
        elif set(scores) != set(layers):
            wrong = ", ".join(sorted(set(scores) ^ set(layers)))
            raise ValueError(f"every layer with a gate needs a score and no other; missing or unknown: {wrong}")
        else:
            ranked = {name: (score,) for name, score in scores.items()}
        kept = within_budget(ranked, self.costs(frame_shape, deployed=True), budget=budget, period=period)
        with torch.no_grad():
            for name, layer in layers.items():
                size = layer.gate_logit.abs().clamp(min=1e-3)
                layer.gate_logit.copy_(size if name in kept else -size)
        return kept

    @torch.no_grad()
    def inspect(self, frames: Iterable[Tensor]) -> Inspection:
        """Compares with the teacher, on a key frame and the frames after it.

        Args:
            frames: as in a call, one video (b = 1), all of one size; the first is the key frame.

        Raises:
            ValueError: no frame, more than one video, or a frame that does not fit.
        """
        state, rows, outputs, references, names = None, [], [], [], ()
        for frame in frames:
            teacher = self.traced(frame, teacher=True)
            ours = self.traced(frame, state)
            if len(frame) != 1:
                raise ValueError(f"one video is inspected at a time, got frames of {len(frame)}")
            if state is None:
                first, names = ours, tuple(ours.outputs)
            state = ours.state
            rows.append(
                [
                    (
                        ours.inputs[name] - first.inputs[name],
                        teacher.outputs[name] - first.outputs[name],
                        ours.outputs[name] - first.outputs[name],
                        ours.outputs[name] - teacher.outputs[name],
                    )
                    for name in names
                ]
            )
            # Only maps and energies are kept of a frame, or a long clip would not fit in memory.
            rows[-1] = [
                [(root_mean_square(change), change.float().square().mean().cpu()) for change in changes]
                for changes in rows[-1]
            ]
            outputs.append(ours.output)
            references.append(teacher.output)
        if not rows:
            raise ValueError("there is no frame to inspect")
        energies = [
            torch.tensor([[row[k][part][1] for row in rows] for k in range(len(names))]).reshape(len(names), len(rows))
            for part in range(4)
        ]
        maps = {
            name: LayerMaps(*(torch.stack([row[k][part][0] for row in rows]) for part in range(4)))
            for k, name in enumerate(names)
        }
        drifts = torch.tensor([drift(a, b) for a, b in zip(outputs, references, strict=True)])
        return Inspection(names, *energies, drifts, maps, outputs, references)

    def _pass(self, frame: Tensor, state: DeltaState | None, *, teacher: bool = False, watch: bool = False) -> Pass:
        check_frame(frame)
        if teacher:
            return Pass("teacher", watch=watch)
        if state is None:
            return Pass("key", watch=watch)
        state.check_network(self._identity)
        state.check_frame(frame)
        return Pass("delta", state=state, sample=self._sample(), watch=watch)

    def _sample(self):
        return sample_gate if self.searching and self.training else None

    def _run(self, frame: Tensor, current: Pass) -> Any:
        check_frame(frame)
        if current.kind == "key":
            current.frame = frame.clone()
        shown = frame.contiguous(memory_format=torch.channels_last) if self.layout == "channels_last" else frame
        if shown is frame:
            shown = frame.clone()  # for the network may normalise it in place, and the caller show it to another
        with current.active():
            output = self.model(shown)
        current.finish()
        return output

    def _state(self, current: Pass) -> DeltaState:
        if current.kind == "delta":
            return current.state.after()
        return DeltaState(current.frame, current.caches, current.shapes, self._identity)

    def _steps(self, frames: Iterable[Tensor], period: int, threshold: float | int | None) -> Iterator[Step]:
        state = None
        for number, frame in enumerate(frames):
            with torch.inference_mode():
                try:
                    energy = None if threshold is None or state is None else state.energy(frame)
                    if state is not None and (state.age + 1 >= period or (energy is not None and energy > threshold)):
                        state.check_frame(frame)
                        state = None
                    key = state is None
                    output, state = self(frame, state)
                except ValueError as error:
                    raise ValueError(f"frame {number} of the stream: {error}") from error
            yield Step(output, key, energy, state)


def _students(layer: DeltaLayer) -> list[nn.Module]:
    if isinstance(layer, DeltaConv2d):
        return [layer.full, layer.small]
    return [layer.student] if isinstance(layer, DeltaBlock) else []
