"""Looking through a data set before anything is trained on it: ``cstn data check``.

Opening a split stops at its first fault. A check goes on and counts: what is missing or unreadable,
boxes outside their images, unknown labels, photos that two splits share. With `deep`, every photo
is decoded, which also finds truncated ones, and compared with those of the other splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

from cstn_lib.data.photos.decoding import decode_photo, tried
from cstn_lib.data.photos.faults import Faults
from cstn_lib.data.photos.photo_list import Photo
from cstn_lib.data.photos.reading import SPLITS, Reader
from cstn_lib.data.photos.sources import Source
from cstn_lib.support.errors import InputError


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        splits: one row per split: name, images, classes with images, boxes.
        findings: faults and oddities by kind.
    """

    splits: Sequence[tuple[str, int, int, int]]
    findings: Faults

    @property
    def ok(self) -> bool:
        """Whether everything can be used; oddities do not count."""
        return self.findings.clean

    def __str__(self) -> str:
        lines = [f"{'split':<8}{'images':>10}{'classes':>10}{'boxes':>10}"]
        lines += [f"{name:<8}{n:>10,}{k:>10,}{m:>10,}" for name, n, k, m in self.splits]
        counts, odd = self.findings.counts, self.findings.odd
        if counts:
            width = max(map(len, counts)) + 2
            lines += ["", f"{'found':<{width}}{'count':>8}  the first"]
        for kind in sorted(counts, key=odd.__contains__):
            lines.append(f"{kind:<{width}}{counts[kind]:>8,}  {self.findings.first[kind]}")
        harmless = sum(counts[kind] for kind in odd)
        faults = counts.total() - harmless
        return "\n".join([*lines, "", f"{faults:,} faults, {harmless:,} oddities that do no harm"])


def check(reader: type[Reader], root: Path, *, deep: bool = False) -> Report:
    """Look through all splits of a data set; nothing is written.

    Args:
        root: folder or archive of the data set.
        deep: decode every photo, with a progress bar.

    Raises:
        InputError: there is no such data set under `root`.
    """
    findings = Faults(stop=False)
    found: dict[str, list[Photo]] = {}
    with reader.open(root, findings) as opened:
        source = opened.source
        for split in SPLITS:
            try:
                found[split], _ = opened.photos(split)
            except InputError as error:
                findings.fault("split not readable", str(error))
        for file in sorted(source.passed_over):
            findings.oddity("hidden or made by a machine, passed over", source.where(file))
        # photos in two splits of a published data set are nobody's mistake here
        report = source.oddity if opened.published else source.fault
        first: dict[bytes | str, tuple[str, str]] = {}
        for split, photos in found.items() if deep else ():
            files = [photo.file for photo in photos]
            contents = tried(source, partial(_content, source), files, f"decoding {split}")
            for file, content in zip(files, contents, strict=True):
                other, twin = first.setdefault(content or file, (split, file))
                if other != split:
                    message = f"in {split}, and as {source.where(twin)} in {other}"
                    report("photo in two splits", message, file)
    rows = []
    for split, photos in found.items():
        boxes = sum(len(photo.boxes) for photo in photos)
        rows.append((split, len(photos), len({photo.label for photo in photos}), boxes))
    return Report(rows, findings)


def _content(source: Source, file: str) -> bytes:
    """What tells the content of a photo, once it is decoded."""
    decode_photo(source, file, 1)
    return blake2b(source.read(file), digest_size=16).digest()
