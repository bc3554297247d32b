"""What plugins share that reach a disk over a network: reconnecting, and threads on one connection.

It knows neither a protocol nor any plugin.
"""
