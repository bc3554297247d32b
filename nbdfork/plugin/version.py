"""The version of the contract."""

API_VERSION = 1
"""It grows by one with the first release that has something new in the contract.

What is written for one version works with every later one, unless a release of nbdfork says that it
breaks something (CONTRIBUTING.md, "Versions").  A plugin that needs what a version has brought says
so by `Plugin.api_version`.
"""
