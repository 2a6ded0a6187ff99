"""What the finished model took each held-out picture for: one line a picture in predictions.csv."""

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from distaug.errors import StorageError
from distaug.store.place import Place
from distaug.store.whole import write_whole

__all__ = ["Prediction", "read", "write"]

_COLUMNS = ("set", "index", "picture", "class", "predicted", "probability", "true_probability")


@dataclass(frozen=True)
class Prediction:
    """One picture and the model's answer."""

    set: str
    """`test`, or `val` where there is no test set."""
    index: int
    """Place of the picture in its set."""
    picture: str
    """Where the user finds it."""
    label: str
    """Name of its class; the column `class`."""
    predicted: str
    """Name of the likeliest class."""
    probability: float
    """Softmax of the predicted class, in 0 to 1."""
    true_probability: float
    """Softmax of the picture's own class."""

    @property
    def right(self) -> bool:
        """Whether the model was right."""
        return self.label == self.predicted


def write(path: Place, predictions: Iterable[Prediction]) -> None:
    """Write predictions.csv, whole or absent.

    Raises:
        StorageError: It cannot be written.
    """
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(_COLUMNS)
    lines.writerows(map(astuple, predictions))
    write_whole(path, text.getvalue().encode("utf-8", "backslashreplace"))  # names on a disk may be no text


def read(path: Place) -> list[Prediction]:
    """Return the predictions, none where there is no file.

    Raises:
        StorageError: The file cannot be read, is damaged, or lacks a column that this version needs.
    """
    try:
        lines = csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))
        if missing := set(_COLUMNS) - set(lines.fieldnames or ()):
            raise StorageError(
                f"{path} lacks the columns {', '.join(sorted(missing))}: it is damaged or of another version; "
                "remove it, and the report goes without it"
            )
        return [_prediction(line) for line in lines]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise StorageError(f"{path} is damaged ({error}); remove it, and the report goes without it") from error


def _prediction(line: dict[str, str]) -> Prediction:
    name, index, picture, label, predicted, probability, true_probability = (line[column] for column in _COLUMNS)
    # A line that was cut short has None in its last columns.
    return Prediction(name, int(index), picture, label, predicted, float(probability), float(true_probability))
