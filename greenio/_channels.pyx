# _channels.pyx: being written.
