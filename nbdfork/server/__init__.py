"""The processes: sockets, the daemon, the pool of workers, the captive command.

This wing knows neither the protocol nor plugins: it is given a function that makes, of an
accepted stream, something that can `serve` and be told to `stop`.
"""
