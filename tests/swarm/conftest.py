"""Fixtures of the swarm's tests."""

from random import Random

import pytest

from beiran.swarm.config import SwarmConfig
from beiran.swarm.node import SwarmNode
from tests.swarm.single_node import AT, OWN


@pytest.fixture
def node() -> SwarmNode:
    node = SwarmNode(OWN, cluster="default", config=SwarmConfig(), random=Random(1), now=0.0)
    node.set_members(AT, now=0.0)
    return node
