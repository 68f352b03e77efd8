"""bin/soak: real daemons, shaken and killed, and all that they serve is checked."""
