"""What image and video decoders say on the error output while they conceal damage: the only place where they say it."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_DAMAGE = re.compile(r"corrupt|premature end|error while decoding|concealing|invalid nal|non-existing pps|missing picture", re.IGNORECASE)
"""Words of libjpeg ("Corrupt JPEG data: premature end of data segment") and FFmpeg ("error while decoding MB 3 4", "concealing 12 DC errors")."""

_SOURCE = re.compile(r"^\[[^\]]*\]\s*")
_STDERR = 2


@contextmanager
def decoder_complaints() -> Iterator[list[str]]:
    """The list is filled, on leaving, with the lines about damage that libraries wrote; other lines go where they would have gone.

    Redirects the error output of the whole process, so it is for processes that do nothing else at the time.
    """
    found: list[str] = []
    sys.stderr.flush()
    kept = os.dup(_STDERR)
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), _STDERR)
        try:
            yield found
        finally:
            sys.stderr.flush()
            os.dup2(kept, _STDERR)
            os.close(kept)
            stream.seek(0)
            for line in stream.read().decode(errors="replace").splitlines():
                if not _DAMAGE.search(line):
                    os.write(_STDERR, line.encode() + b"\n")
                elif (text := _SOURCE.sub("", line.strip())) not in found:
                    found.append(text)
