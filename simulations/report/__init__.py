"""What a run looked like: collected by ``Chronicle``, kept as a ``Record``, shown as a page.

chronicle = Chronicle(world)           # before anything happens
...
write_report(chronicle.record("my run"), Path("out"))
"""

from simulations.report.chronicle import Chronicle
from simulations.report.page import write_report
from simulations.report.record import Record

__all__ = ["Chronicle", "Record", "write_report"]
