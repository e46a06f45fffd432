"""Many hand-offs under many fibers that each check what is theirs: handoff.py HANDOFFS FIBERS.  Last line: ok."""

import contextvars
import ctypes
import logging
import os
import random
import sys
import threading
import time

import greenio
from greenio import _scheduler

logging.disable(logging.CRITICAL)
libc = ctypes.CDLL(None)
prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
variable = contextvars.ContextVar("variable")
values = threading.local()
lock = threading.RLock()
errors = []
over = False


def expect(right, what):
    if not right:
        errors.append(what)


def parks_below_a_callback(number):
    def callback(argument):
        greenio.sleep(0)
        expect(variable.get() == number, "a variable, below a callback")
        return argument + 1

    expect(prototype(callback)(number) == number + 1, "a callback's value")


def computes():
    until = time.monotonic() + 0.003
    while time.monotonic() < until:
        pass


def waits_in_vain():
    with greenio.move_on_after(0.001):
        greenio.sleep(0.01)


def spawns(number):
    expect(greenio.spawn(lambda: number).result() == number, "a fiber's result")


def holds():
    with lock, lock:
        greenio.sleep(0)


def stays():
    with greenio.pin():
        before = threading.get_native_id()
        greenio.sleep(0.001)
        expect(threading.get_native_id() == before, "a pinned fiber's OS thread")


def numbers():
    count = 0
    while True:
        yield count
        count += 1


def work(number):
    variable.set(number)
    values.number = number
    chance = random.Random(number)
    me = greenio.current_fiber()
    counted = numbers()
    turn = 0
    deeds = [
        (0.05, lambda: sorted(range(3), key=lambda each: greenio.yield_now() or each)),
        (0.03, lambda: parks_below_a_callback(number)),
        (0.04, holds),
        (0.02, lambda: libc.usleep(chance.randrange(500, 4000))),
        (0.005, computes),
        (0.03, waits_in_vain),
        (0.05, lambda: spawns(number)),
        (0.005, stays),
    ]
    while not over:
        try:
            raise ValueError(number)
        except ValueError as error:
            if chance.random() < 0.5:
                greenio.sleep(chance.random() * 0.002)
            else:
                greenio.yield_now()
            expect(sys.exc_info()[1] is error, "the exception that is handled")
        expect(variable.get() == number and values.number == number, "a variable")
        expect(next(counted) == turn, "a generator")
        expect(greenio.current_fiber() is me, "the current fiber")
        turn += 1
        drawn = chance.random()
        for share, deed in deeds:
            drawn -= share
            if drawn < 0:
                deed()
                break


def main(wanted, count):
    global over
    scheduler = greenio.current_fiber().scheduler
    fibers = [greenio.spawn(work, number) for number in range(count)]
    most = 0
    while scheduler.handoffs < wanted:
        greenio.sleep(0.02)
        most = max(most, len(os.listdir("/proc/self/task")))
    over = True
    for fiber in fibers:
        fiber.result()
    return scheduler.handoffs, scheduler.switch_count, most


if __name__ == "__main__":
    before = len(os.listdir("/proc/self/task"))
    _scheduler.set_monitor_tick(0.0005)
    done, switches, most = greenio.run(
        main, int(sys.argv[1]), int(sys.argv[2]), stall="handoff", stall_after=0.001, switch_interval=0.0005
    )
    print(f"{done} hand-offs, {switches} switches, at most {most} OS threads")
    assert not errors, set(errors)
    assert most <= 70, most
    assert len(os.listdir("/proc/self/task")) == before
    assert threading.active_count() == 1
    print("ok")
