"""What plugins share that serve local files, or put a disk together from several parts.

It knows neither parameters nor any plugin; what is opened or computed here is an `Export`.
"""
