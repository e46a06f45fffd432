"""queue: SimpleQueue parks, every one that exists. The others are made of threading's locks and follow from those."""

from greenio import threading as stand_ins
from greenio.compat.patches import Patch


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.undo_with(stand_ins.put_queues_back)
    stand_ins.change_queues()
