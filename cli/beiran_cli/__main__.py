"""``python -m beiran_cli`` is ``beiran``."""

from beiran_cli.main import main

main()
