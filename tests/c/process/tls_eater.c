/* Takes BYTES of the loader's surplus of static TLS. */
static __thread char eaten[BYTES] __attribute__((tls_model("initial-exec"), aligned(16)));
char *eat(void) { return eaten; }
