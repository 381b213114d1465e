"""Tests over SSH are collected only where the extra ``ssh`` is installed.

paramiko would be imported by every agent of the lab, at 18 MB each (measured), so that it is not
among the packages for development.
"""

from beiran.engine.docker.address import HAS_SSH

collect_ignore = [] if HAS_SSH else ["test_ssh.py"]
