"""A student as a file that runs without vkdlab: `torch.export` (.pt2) and ONNX, each held against the student (ours).

The graph takes features as they were extracted, of the columns that the student sees, and standardises them itself;
batch, clips and words may be of any number up to what the student has positions for. It checks nothing: every video and
every query needs a step that is not masked out.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vkdlab.emtm.networks import SpanNetwork
from vkdlab.emtm.student_files import Student, load_student
from vkdlab.files import atomic_path, write_json

INPUTS = ("video", "video_mask", "query", "query_mask")
OUTPUTS = ("start_probs", "end_probs")
FILES = {"torch": "student.pt2", "onnx": "student.onnx"}
RECORD = "export.json"
TOLERANCE = 1e-5
"""Greatest difference between probabilities of the export and of the student."""
LARGEST_BATCH = 4096


class ExportedStudent(nn.Module):
    """What is exported: features as extracted in, probabilities out.

    Args:
        student: weights and standardisation are taken from it.
    """

    def __init__(self, student: Student):
        super().__init__()
        seen = slice(*student.seen)
        self.network: SpanNetwork = student.network
        # Cloned because part of a tensor would be saved with the whole of it.
        self.register_buffer("mean", student.standardisation.mean[seen].clone())
        self.register_buffer("std", student.standardisation.std[seen].clone())

    def forward(
        self,
        video: Float[Tensor, "b l v"],
        video_mask: Bool[Tensor, "b l"],
        query: Float[Tensor, "b w e"],
        query_mask: Bool[Tensor, "b w"],
    ) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b l"]]:
        """Probability of each clip to hold the start, and the end; 0 on padding."""
        # Not through the encoder's own forward: its check of the masks is a branch on data, which no graph can hold.
        encoder = self.network.encoder
        clips = encoder.sequence(encoder.video_input((video - self.mean) / self.std), video_mask)
        words = encoder.sequence(encoder.query_input(query), query_mask)
        output = self.network.branch(clips, video_mask, words, query_mask)
        return output.start_logits.softmax(1), output.end_logits.softmax(1)


def export_student(
    student: Student | str | os.PathLike, folder: str | os.PathLike, *, formats: Sequence[str] = ("torch", "onnx")
) -> dict[str, Path]:
    """Writes the student into `folder`, and an `export.json` with inputs, outputs and the greatest difference found.

    Args:
        student: a loaded one, or its folder.
        folder: made where there is none.
        formats: "torch" gives `student.pt2`, "onnx" gives `student.onnx`.

    Returns:
        The file of each format.

    Raises:
        ValueError: a format that is none, or an export that does not say what the student says.
        ModuleNotFoundError: the packages for ONNX are not installed; the message says how to get them.
        FileNotFoundError: there is no such student.
    """
    if unknown := [name for name in formats if name not in FILES]:
        raise ValueError(f"a student is exported as {' or '.join(FILES)}, not as {unknown[0]!r}")
    if "onnx" in formats:
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise ModuleNotFoundError(
                f"an export to ONNX needs {', '.join(missing)}: pip install -c constraints.txt -e '.[export]'"
            )
    if not isinstance(student, Student):
        student = load_student(student)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    module = ExportedStudent(student).eval()
    with _quiet():
        program = _program(module)
        paths, differences = {}, {}
        for name in formats:
            paths[name] = folder / FILES[name]
            with atomic_path(paths[name]) as temporary:
                if name == "torch":
                    torch.export.save(program, temporary)
                else:
                    onnx_program = torch.onnx.export(
                        program, input_names=INPUTS, output_names=OUTPUTS, dynamo=True, verbose=False
                    )
                    onnx_program.save(temporary)
            differences[name] = _difference(name, paths[name], module)
    sizes = module.network.config
    write_json(
        folder / RECORD,
        {
            "inputs": {
                "video": f"float32 (b, l, {sizes.video_dim}), 1 <= l <= {sizes.max_clips}: features as extracted",
                "video_mask": "bool (b, l): true on real clips",
                "query": f"float32 (b, w, {sizes.query_dim}), 1 <= w <= {sizes.max_words}: MiniLM's word pieces",
                "query_mask": "bool (b, w): true on real word pieces",
            },
            "outputs": dict.fromkeys(OUTPUTS, "float32 (b, l): probability of each clip"),
            "features": [manifest.extractor for manifest, _ in student.parts],
            "stride_s": student.stride_s,
            "greatest_difference": differences,
            "compared": [dict(zip("blw", shape, strict=True)) for shape in _shapes(module)],
        },
    )
    return paths


def _program(module: ExportedStudent) -> torch.export.ExportedProgram:
    sizes = module.network.config
    batch = torch.export.Dim("b", min=1, max=LARGEST_BATCH)
    clips = torch.export.Dim("l", min=1, max=sizes.max_clips)
    words = torch.export.Dim("w", min=1, max=sizes.max_words)
    # Sizes above 1 that are all different, so that none is taken for fixed or for another.
    example = _inputs(module, (3, min(5, sizes.max_clips), min(7, sizes.max_words)))
    over = {"video": {0: batch, 1: clips}, "query": {0: batch, 1: words}}
    return torch.export.export(
        module, example, dynamic_shapes=(over["video"], over["video"], over["query"], over["query"]), strict=False
    )


def _difference(name: str, path: Path, module: ExportedStudent) -> float:
    if name == "torch":
        exported = torch.export.load(path).module()
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def exported(*inputs: Tensor) -> list[Tensor]:
            given = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)}
            return [torch.from_numpy(output) for output in session.run(None, given)]

    greatest = 0.0
    for shape in _shapes(module):
        inputs = _inputs(module, shape)
        with torch.no_grad():
            for theirs, ours in zip(exported(*inputs), module(*inputs), strict=True):
                greatest = max(greatest, (theirs - ours).abs().max().item())
    # Not "greater": not-a-number has to be refused as well.
    if not greatest <= TOLERANCE:
        raise ValueError(
            f"{path} does not say what the student says: probabilities differ by {greatest:.2g}, {TOLERANCE:g} at most "
            "is allowed. Do not use it, and report the versions of torch and onnxruntime"
        )
    return greatest


def _shapes(module: ExportedStudent) -> list[tuple[int, int, int]]:
    clips, words = module.network.config.max_clips, module.network.config.max_words
    return [(1, 1, 1), (1, clips, words), (4, max(1, clips // 2), max(1, words // 3)), (2, max(1, clips // 3), 1)]


def _inputs(module: ExportedStudent, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random features in the range of the real ones; every row but the first is padded."""
    batch, clips, words = shape
    sizes, draw = module.network.config, torch.Generator().manual_seed(sum(shape))
    rows = torch.arange(batch)[:, None]
    return (
        module.mean + module.std * torch.randn(batch, clips, sizes.video_dim, generator=draw),
        torch.arange(clips) < (clips - rows).clamp(min=1),
        torch.randn(batch, words, sizes.query_dim, generator=draw),
        torch.arange(words) < (words - rows).clamp(min=1),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what torch says to its own developers: that it uses what it deprecated, that torchvision is absent."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
