"""A pipeline with a deadline: one fiber lists files, some count their words, one adds up. Bounded channels make the fast wait
for the slow; when the deadline comes, all of them stop, and what is there by then is printed."""

import argparse
from collections import Counter
from pathlib import Path

import greenio


def list_files(folder: Path, files: greenio.Channel[Path]) -> None:
    for path in sorted(folder.rglob("*.py")):
        files.send(path)
    files.close()


def count_words(files: greenio.Channel[Path], counts: greenio.Channel[Counter[str]]) -> None:
    for path in files:
        greenio.checkpoint()  # reading a file and counting do not park: here the deadline can come
        counts.send(Counter(path.read_text(errors="replace").split()))


def add_up(counts: greenio.Channel[Counter[str]], total: Counter[str], done: list[int]) -> None:
    for count in counts:
        total.update(count)
        done.append(1)


def main(folder: Path, workers: int, seconds: float) -> None:
    total: Counter[str] = Counter()
    done: list[int] = []
    files: greenio.Channel[Path] = greenio.Channel(16)
    counts: greenio.Channel[Counter[str]] = greenio.Channel(16)
    with greenio.move_on_after(seconds) as deadline, greenio.TaskGroup() as group:
        group.spawn(list_files, folder, files)
        group.spawn(add_up, counts, total, done)
        with greenio.TaskGroup() as counting:
            for number in range(workers):
                counting.spawn(count_words, files, counts, name=f"worker {number}")
        counts.close()
    print(f"{len(done)} files, {total.total()} words" + (", cut short" if deadline.cancelled_caught else ""))
    for word, count in total.most_common(5):
        print(f"{count:8} {word}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    greenio.run(main, options.folder, options.workers, options.seconds)
