"""Stand-ins for what the standard library blocks in, a module each, named as the module it is for; installed by greenio.monkey."""
