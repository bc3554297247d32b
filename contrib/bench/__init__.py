"""The benchmark: the same loads on nbdfork and on other NBD servers, interleaved in one run.

`cells` is the table of what is measured; `loads` and `probes` say how, `servers`, `disks` and
`plugins` on what, `rounds` in which order, `report` and `chart` what is made of it.
"""
