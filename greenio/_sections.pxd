# _sections.pxd: stretches of code that a fiber runs under a promise. Nothing here is for other extension modules: who keeps the
# promises asks Fiber.pinned and Fiber.atomic_depth.
