"""What a folder of scans holds: subjects and a cohort of them; paths only, nothing loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_PERSON = re.compile(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?(?=_|$)")


@dataclass(frozen=True)
class Subject:
    """One scan of a person and, where there is one, its label map.

    Parameters
    ----------
    id : the file name without its ending (`.nii.gz`, `.mha`, ...) and `_0000`.
    image : the scan's file.
    labels : the label map's file, or None.
    annotated : label values that were annotated in this scan, as they stand in its file; None for
        all of the cohort's. A value that is not among them is not known to be absent.
    person : who was scanned; scans of one person never lie in two parts of a split. Where it is
        not given, it is the `sub-XX` that the id begins with, else the id.
    session : when, such as `ses-YY`; empty where it is not known.
    """

    id: str
    image: Path
    labels: Path | None = None
    annotated: tuple[int, ...] | None = None
    person: str = ""
    session: str = ""

    def __post_init__(self) -> None:
        named = _PERSON.match(self.id)
        if not self.person:
            object.__setattr__(self, "person", named[1] if named else self.id)
        if not self.session and named and named[2]:
            object.__setattr__(self, "session", named[2])


@dataclass(frozen=True)
class Cohort:
    """The scans of one folder or table, sorted by id, and the names of their labels.

    Parameters
    ----------
    root : the folder, or the file that lists the scans.
    subjects : sorted by id.
    label_names : label value to name, background left out; values without a name may occur.
    groups : named sets of label values.
    faults : what is wrong with the folder (a label without image, two images of one id, ...);
        `data.check.check_cohort` lists them together with the faults inside the files.
    split : ids of the parts "train", "validation" and "test", where the cohort names them itself.
    pairs : (moving, fixed) ids, where the cohort names the pairs to score itself.
    notes : what was chosen or left out in reading it, for people to know.
    ignored : label values that mark voxels of which nothing is known.
    """

    root: Path
    subjects: tuple[Subject, ...]
    label_names: dict[int, str] = field(default_factory=dict)
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    split: dict[str, tuple[str, ...]] | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    ignored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.subjects, key=lambda subject: subject.id))
        object.__setattr__(self, "subjects", ordered)
        object.__setattr__(self, "root", Path(self.root))

    @property
    def labelled(self) -> tuple[Subject, ...]:
        """The subjects that have a label map."""
        return tuple(subject for subject in self.subjects if subject.labels is not None)

    def by_id(self, identifier: str) -> Subject:
        """The subject of that id; KeyError if there is none."""
        for subject in self.subjects:
            if subject.id == identifier:
                return subject
        raise KeyError(identifier)
