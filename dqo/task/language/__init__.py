"""Checks of texts: English, and the small grammar of ``task=concepts``."""
