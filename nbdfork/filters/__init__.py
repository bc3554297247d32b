"""The filters that come with nbdfork, one file a filter."""
