"""The command line: ``beiran`` and ``beirand``. It speaks to an agent through its client only."""
