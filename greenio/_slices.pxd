# _slices.pxd: fibers that compute for long are switched out. Nothing here is for other extension modules.
