# _dump_signal.pxd: nothing here is for other extension modules.
