"""What the rewards share: totals, the policy ``on_error``, calls of user functions."""
