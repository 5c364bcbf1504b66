"""One building process: reads `split index` lines, makes these videos, answers `null` or what went wrong (ours)."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from vkdlab.data.tabletop.build import make_video
from vkdlab.data.tabletop.stage import WorldConfig


def main() -> None:
    """Works until the pipe closes; being told to stop leaves no half-written file."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder, values = Path(sys.argv[1]), json.loads(sys.argv[2])
    config = WorldConfig(**{**values, "duration_s": tuple(values["duration_s"])})
    for line in sys.stdin:
        split, index = line.split()
        problem = None
        try:
            make_video(config, folder, split, int(index))
        except OSError as error:
            problem = {"type": "OSError", "errno": error.errno, "text": error.strerror or str(error)}
        except Exception as error:
            problem = {"type": type(error).__name__, "text": f"{split} {index}: {type(error).__name__}: {error}"}
        try:
            sys.stdout.write(json.dumps(problem) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            os._exit(1)  # whoever asked is gone; closing the pipe in the ordinary way would only complain


if __name__ == "__main__":
    main()
