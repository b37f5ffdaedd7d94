"""Tasks: one file per option of ``conf/task``; helpers are one folder down."""
