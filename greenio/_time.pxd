# _time.pxd: sleeping. Nothing that other extensions call.
