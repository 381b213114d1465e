from collections.abc import Iterator
from pathlib import Path

import pytest

from beiran.store.store import Store
from tests.store.samples import open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path)
    yield store
    store.close()
