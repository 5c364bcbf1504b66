"""A question about a video and its answer as a picture: frames that were read, and all that were looked at (ours)."""

from __future__ import annotations

import os
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from vkdlab.data.video import FrameReader
from vkdlab.files import atomic_path
from vkdlab.vlap.ask import Asked
from vkdlab.vlap.backbone import LETTERS

WIDTH = 1280
"""Width of a contact sheet, pixels."""
_MARGIN, _GAP, _LINE = 16, 8, 24
_FEWEST_SMALL, _MOST_SMALL, _MOST_LARGE, _BAR = 8, 16, 4, 26
_WHITE, _DARK, _GREY, _PALE, _CHOSEN = (255, 255, 255), (34, 34, 34), (120, 120, 120), (222, 228, 235), (213, 94, 0)
_PLAIN = str.maketrans("“”„‘’‚–—…", "\"\"\"'''--.")


def contact_sheet(asked: Asked) -> UInt8[np.ndarray, "h w 3"]:
    """What was asked and answered as a picture, `WIDTH` pixels wide.

    Below the question and its options the frames that were read, large and in the order of time, as they are in the
    file; below these all frames that were looked at, small, each with its seconds, its score and a bar for its
    probability. Parts of the video are told apart by their background.

    Raises:
        FileNotFoundError, VideoError: the video is no longer there, or has changed.
    """
    rows = [_headline(asked), _read_frames(asked), _all_frames(asked), _line(_footer(asked), colour=_GREY)]
    return np.vstack([np.full((_MARGIN, WIDTH, 3), _WHITE, np.uint8), *rows])


def write_contact_sheet(asked: Asked, path: str | os.PathLike) -> None:
    """Writes the contact sheet as a PNG file.

    Raises:
        ValueError: the file is named otherwise, or is the video itself.
        OSError: the folder cannot be written.
        FileNotFoundError, VideoError: as `contact_sheet`.
    """
    path = sheet_path(asked.video, path)
    done, data = cv2.imencode(".png", cv2.cvtColor(contact_sheet(asked), cv2.COLOR_RGB2BGR))
    assert done
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def sheet_path(video: str | os.PathLike, path: str | os.PathLike | None = None) -> Path:
    """Where the contact sheet of a video goes; by default VIDEO-answer.png in the working directory.

    Raises:
        ValueError: the path is no PNG file's, or the video's own.
    """
    video = Path(video)
    path = Path(f"{video.stem}-answer.png" if path is None else path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"the contact sheet is a PNG file, such as {path.stem or 'answer'}.png, got {path}")
    if path.exists() and video.exists() and path.samefile(video):
        raise ValueError(f"{path} is the video itself: write the contact sheet to another file")
    return path


def _headline(asked: Asked) -> UInt8[np.ndarray, "h w 3"]:
    rows = [_line(line, scale=0.7) for line in _wrapped(asked.prompt.question, WIDTH - 2 * _MARGIN, scale=0.7)]
    bar, first = 200, _MARGIN + 340
    for place, (option, prob) in enumerate(zip(asked.prompt.options, asked.option_probs.tolist(), strict=True)):
        won = place == asked.answer
        lines = _wrapped(option, WIDTH - first - _MARGIN, scale=0.55)
        row = np.full((_LINE * len(lines), WIDTH, 3), _WHITE, np.uint8)
        _write(row, f"{LETTERS[place]}  {100 * prob:5.1f} %", (_MARGIN, 17), colour=_CHOSEN if won else _DARK)
        left = _MARGIN + 120
        cv2.rectangle(row, (left, 5), (left + bar, 19), _PALE, -1)
        cv2.rectangle(row, (left, 5), (left + round(bar * prob), 19), _CHOSEN if won else _GREY, -1)
        for number, line in enumerate(lines):
            _write(row, line, (first, 17 + number * _LINE), colour=_CHOSEN if won else _DARK)
        rows.append(row)
    return np.vstack(rows)


def _read_frames(asked: Asked) -> UInt8[np.ndarray, "h w 3"]:
    columns = min(max(len(asked.chosen), 2), _MOST_LARGE)
    side = (WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) // columns
    reader, cells = FrameReader(asked.video), []
    size = _fitted(reader, side)
    for place, number in zip(asked.chosen, asked.frames, strict=True):
        cell = np.full((_LINE + size[1], side, 3), _WHITE, np.uint8)
        title = f"{asked.times_s[place]:.2f} s, frame {number}, score {asked.scores[place]:.2f}"
        _write(cell, title, (0, 17), scale=0.45)
        # One at a time: as they are in the file, many would not fit into memory.
        cell[_LINE:, : size[0]] = _resized(reader.frames([number])[0], size)
        cells.append(cell)
    return _grid(cells, columns=columns)


def _all_frames(asked: Asked) -> UInt8[np.ndarray, "h w 3"]:
    columns = min(max(len(asked.thumbnails), _FEWEST_SMALL), _MOST_SMALL)
    side = (WIDTH - 2 * _MARGIN) // columns
    size, cells = _fitted(FrameReader(asked.video), side - 6), []
    for place, thumbnail in enumerate(asked.thumbnails):
        read = place in asked.chosen
        cell = np.full((size[1] + _BAR + 32, side, 3), _PALE if asked.parts[place] % 2 else _WHITE, np.uint8)
        cell[3 : 3 + size[1], 3 : 3 + size[0]] = _resized(thumbnail, size)
        if read:
            cv2.rectangle(cell, (1, 1), (size[0] + 3, size[1] + 3), _CHOSEN, 3)
        floor = size[1] + 6 + _BAR
        top = floor - round(_BAR * float(asked.probs[place]))
        cv2.rectangle(cell, (3, top), (size[0] + 2, floor), _CHOSEN if read else _GREY, -1)
        _write(cell, f"{asked.times_s[place]:.2f} s", (3, floor + 11), scale=0.35)
        _write(cell, f"{asked.scores[place]:.2f}", (3, floor + 23), scale=0.35, colour=_CHOSEN if read else _GREY)
        cells.append(cell)
    title = "All frames that were looked at: seconds, score, and as a bar the prompter's probability within its part"
    return np.vstack([_line(title, colour=_GREY), _grid(cells, columns=columns, gap=0)])


def _footer(asked: Asked) -> str:
    return (
        f"{asked.video.name}: {len(asked.numbers)} frames looked at, {len(asked.chosen)} read, {asked.decoded} "
        f"decoded, {sum(asked.seconds.values()):.2f} s; student trained on {asked.student.data}"
    )


def _fitted(reader: FrameReader, side: int) -> tuple[int, int]:
    """Width and height of a frame of the video in a square."""
    scale = side / max(reader.width, reader.height)
    return max(round(reader.width * scale), 1), max(round(reader.height * scale), 1)


def _resized(picture: np.ndarray, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    smaller = size[0] < picture.shape[1]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _grid(cells: Sequence[np.ndarray], *, columns: int, gap: int = _GAP) -> UInt8[np.ndarray, "h w 3"]:
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * (height + _GAP), WIDTH, 3), _WHITE, np.uint8)
    for place, cell in enumerate(cells):
        y, x = place // columns * (height + _GAP), _MARGIN + place % columns * (width + gap)
        sheet[y : y + height, x : x + width] = cell
    return sheet


def _line(text: str, *, scale: float = 0.5, colour: tuple[int, int, int] = _DARK) -> UInt8[np.ndarray, "h w 3"]:
    row = np.full((round(_LINE * max(scale / 0.5, 1)), WIDTH, 3), _WHITE, np.uint8)
    _write(row, text, (_MARGIN, round(0.7 * len(row))), scale=scale, colour=colour)
    return row


def _wrapped(text: str, width: int, *, scale: float) -> list[str]:
    """Lines of a text that are at most so many pixels wide."""
    for letters in range(width // 4, 1, -1):
        lines = textwrap.wrap(text, letters)
        if all(cv2.getTextSize(_plain(line), cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] <= width for line in lines):
            break
    return lines


def _write(
    picture: np.ndarray,
    text: str,
    place: tuple[int, int],
    *,
    scale: float = 0.55,
    colour: tuple[int, int, int] = _DARK,
) -> None:
    cv2.putText(picture, _plain(text), place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def _plain(text: str) -> str:
    """OpenCV's font knows no letters but those of ASCII: accents are left out, all others are question marks."""
    letters = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    without_accents = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return without_accents.encode("ascii", "replace").decode()
