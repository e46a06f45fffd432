"""Random sends, receives and selects, of which many are cancelled, timed out or closed: no item is lost or doubled.

Arguments: a seed, how many operations, on how many OS threads. Only with one of them does a seed do the same again.
"""

import random
import sys
import threading

import greenio
from greenio import CancelScope, Channel, ChannelClosed, receiving, select, sending

SEED, OPERATIONS, THREADS = map(int, sys.argv[1:])
WORKERS = 40


class World:
    def __init__(self):
        self.channels = [self.new_channel(capacity) for capacity in (0, 0, 1, 2, 10, 300)]
        self.retired = []
        self.left = OPERATIONS
        self.sent = []
        self.received = []  # (receiver, item)
        self.interrupted = 0

    def new_channel(self, capacity):
        return Channel(capacity)


world = World()


def case(rng, worker, counter):
    number = rng.randrange(len(world.channels))
    channel = world.channels[number]
    if rng.random() < 0.5:
        counter[0] += 1
        return True, (id(channel), worker, counter[0]), channel
    return False, None, channel


def work(worker, scopes, rng):
    counter = [0]
    me = worker % WORKERS
    while world.left > 0:
        world.left -= 1
        wanted = [case(rng, worker, counter) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        with CancelScope() as scope:
            scopes[me] = scope
            if rng.random() < 0.1:
                scope.deadline = greenio.current_time() + rng.random() * 1e-4
            result = None
            try:
                if len(wanted) == 1 and rng.random() < 0.7:
                    ((sends, item, channel),) = wanted
                    result = 0, channel.send(item) if sends else channel.receive()
                else:
                    made = [sending(channel, item) if sends else receiving(channel) for sends, item, channel in wanted]
                    result = select(*made, timeout=rng.choice((None, None, 0, 1e-5)))
            except (ChannelClosed, TimeoutError):
                pass
            if result is not None:
                index, value = result
                sends, item, channel = wanted[index]
                if sends:
                    assert value is None
                    world.sent.append(item)
                else:
                    world.received.append((worker, value))
        world.interrupted += scope.cancelled_caught
        scopes[me] = None


def disturb(scopes, rng):
    # Cancels somebody all the time, closes a channel now and then; also what keeps everybody from waiting for ever.
    while world.left > 0:
        for scope in rng.sample(scopes, 5):
            if scope is not None:
                scope.cancel()
        if rng.random() < 0.02:
            number = rng.randrange(len(world.channels))
            old = world.channels[number]
            world.channels[number] = world.new_channel(old.capacity)
            world.retired.append(old)
            old.close()
        greenio.yield_now()
    for channel in world.channels:
        channel.close()


def main(seed):
    rng = random.Random(seed)
    scopes = [None] * WORKERS
    workers = [greenio.spawn(work, seed * WORKERS + me, scopes, random.Random(rng.random())) for me in range(WORKERS)]
    greenio.spawn(disturb, scopes, rng).join()
    for worker in workers:
        worker.result()


greenio._select.seed_select(SEED)
threads = [threading.Thread(target=greenio.run, args=(main, SEED + 1 + n)) for n in range(THREADS - 1)]
for thread in threads:
    thread.start()
greenio.run(main, SEED)
for thread in threads:
    thread.join()

received = [item for _, item in world.received]
for channel in world.channels + world.retired:
    assert channel.statistics()[:2] == (0, 0), channel
    received.extend(channel)
assert len(world.sent) == len(set(world.sent))
assert len(received) == len(set(received)), "an item came twice"
assert set(received) == set(world.sent), "an item was lost, or came from a send that did not happen"
last = {}
for receiver, (channel, sender, count) in world.received:
    before = last.get((channel, sender, receiver), 0)
    assert before < count, "items of one sender came in another order"
    last[channel, sender, receiver] = count
assert world.interrupted > 0
print(len(world.sent), "items,", world.interrupted, "interrupted,", len(world.retired), "channels closed")
print("ok")
