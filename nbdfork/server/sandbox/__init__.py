"""The sandbox of a worker: what is taken away from it before it sees a client.

`sandbox` puts it together; the other files know one mechanism of the kernel each, and nothing of
workers.  What a disk needs it is told by `Needs`; it knows neither plugins nor options.
"""
