"""The plugins that come with nbdfork, one file a disk."""
