"""A rate limiter: so many calls a second, short bursts allowed. One fiber keeps the bucket; select lets it hand out a
permit or fill the bucket, whichever is possible first."""

import argparse

import greenio


def keep_bucket(permits: greenio.Channel[int], rate: float, burst: int) -> None:
    tokens = burst
    refill = greenio.current_time() + 1 / rate
    number = 0
    while True:
        permit = [greenio.sending(permits, number)] if tokens else []
        if greenio.select(greenio.at(refill), *permit).index == 0:
            tokens = min(tokens + 1, burst)
            refill += 1 / rate
        else:
            tokens -= 1
            number += 1


def call_often(name: str, permits: greenio.Channel[int], calls: int, start: float) -> None:
    for _ in range(calls):
        permit = permits.receive()
        print(f"{greenio.current_time() - start:6.2f} s: {name} makes call {permit}", flush=True)


def main(rate: float, burst: int, calls: int) -> None:
    permits: greenio.Channel[int] = greenio.Channel()
    keeper = greenio.spawn(keep_bucket, permits, rate, burst)
    start = greenio.current_time()
    with greenio.TaskGroup() as group:
        for name in ("alice", "bob"):
            group.spawn(call_often, name, permits, calls, start)
    keeper.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=5.0, help="calls a second (%(default)s)")
    parser.add_argument("--burst", type=int, default=3, help="calls at once after a pause (%(default)s)")
    parser.add_argument("--calls", type=int, default=8, help="calls each of two clients makes (%(default)s)")
    options = parser.parse_args()
    greenio.run(main, options.rate, options.burst, options.calls)
