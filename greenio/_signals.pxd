# _signals.pxd: what _signals.pyx keeps. It gives nothing to other extension modules.
