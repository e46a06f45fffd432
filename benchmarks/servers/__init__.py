"""Echo servers that differ in nothing but the library they stand on."""
