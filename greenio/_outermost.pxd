# _outermost.pxd: Python code run as if nothing had called it. Nothing here is for other extension modules.
