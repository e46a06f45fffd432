"""What programs that were patched meet at the edges of the standard modules: a terminal that is asked."""

import os
import pty
import subprocess

from child import SECONDS, command, environment

ASKS = """
import greenio, greenio.monkey
greenio.monkey.patch_all()
greenio.spawn(lambda: print("meanwhile"))
answers = [input("name? "), input()]
try:
    input("more? ")
except EOFError as error:
    answers.append(str(error))
print(answers)
"""


def test_input_on_a_terminal_parks_and_ends_as_the_standard_one() -> None:
    master, slave = pty.openpty()
    try:
        with subprocess.Popen(
            command(ASKS, flags=()), stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=environment()
        ) as child:
            os.close(slave)
            said = b""

            def until(text: bytes) -> None:
                nonlocal said
                while text not in said:
                    said += os.read(master, 1000)

            try:
                until(b"name? ")
                until(b"meanwhile")  # while it asks
                os.write(master, b"one\n")
                os.write(master, b"two\n")
                until(b"more? ")
                os.write(master, b"\x04")
                until(b"]")
            except OSError:  # it has ended early, and says why
                pass
            _, errors = child.communicate(timeout=SECONDS)
            assert child.returncode == 0, errors
            assert b"['one', 'two', 'EOF when reading a line']" in said, (said, errors)
    finally:
        os.close(master)
