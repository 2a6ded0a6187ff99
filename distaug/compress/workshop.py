"""Where a compression works: libraries that write and map files want those of this machine.

For a run in a folder that is its `compressed` itself. For a run in an object store it is a temporary folder that begins
with what an earlier try has put there, and whose files are put there when they are done.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from distaug.store.place import Place
from distaug.store.whole import write_whole

__all__ = ["Workshop", "workshop"]


@dataclass
class Workshop:
    """A folder of this machine and the one that it stands for."""

    folder: Path
    """To work in."""
    home: Place
    """The run's `compressed`; the folder itself unless it is in an object store."""
    _put: dict[str, str] = field(default_factory=dict)

    def put(self, last: str) -> None:
        """Put whatever has changed.

        Args:
            last: The file that says which others there are.

        Raises:
            StorageError: The store does not take it.
        """
        if self.home == self.folder:
            return
        names = [path.relative_to(self.folder).as_posix() for path in sorted(self.folder.rglob("*")) if path.is_file()]
        for name in sorted(names, key=lambda name: name == last):
            data = (self.folder / name).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if self._put.get(name) != digest:
                write_whole(self.home / name, data)
                self._put[name] = digest


@contextmanager
def workshop(home: Place, leave_out: str) -> Iterator[Workshop]:
    """Open the place where a compression works.

    Args:
        home: The run's `compressed`.
        leave_out: Name of the folder in it that is never needed here.

    Raises:
        StorageError: The store does not give what is there.
    """
    if isinstance(home, Path):
        yield Workshop(home, home)
        return
    with tempfile.TemporaryDirectory(prefix="distaug-compress-") as folder:
        opened = Workshop(Path(folder), home)
        for name in home.files():
            if not name.startswith(f"{leave_out}/"):
                target = opened.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                home.joinpath(name).fetch(target)
                opened._put[name] = hashlib.sha256(target.read_bytes()).hexdigest()
        yield opened
