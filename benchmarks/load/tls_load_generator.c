/* Load for an echo server over TLS: load_generator.c with OpenSSL between it and the socket. Certificates are not looked at. */
#define WITH_TLS
#include "load_generator.c"
