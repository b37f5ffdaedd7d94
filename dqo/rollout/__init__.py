"""Engines that sample completions: one file per option of ``conf/rollout``; helpers are one folder down."""
