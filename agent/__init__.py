"""The inspection agent: the only layer with threads, sockets, signals, clocks and the network."""
