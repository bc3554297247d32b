"""What plugins share that speak HTTP by libcurl: transfers with bounds, and what replies mean.

It knows no plugin.  Of what a server announces, nothing is believed that has not been checked.
"""
