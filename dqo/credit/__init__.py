"""How much a completion adds to its group: one file per option of ``conf/credit``; helpers are one folder down."""
