"""The examples in etc/examples, each run by the real program in front of real daemons."""
